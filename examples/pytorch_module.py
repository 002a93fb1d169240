"""PyTorch both ways.

A layer of xplayers is a module of PyTorch, which an optimizer of PyTorch trains; a module of
PyTorch is a layer of xplayers, which `Trainer` trains. In each case both have one memory.
"""

import torch

import xplayers as xl
from xplayers.torch import Module, as_layer

(x, t), (x_test, t_test) = (
    (torch.from_numpy(x), torch.from_numpy(t)) for x, t in xl.data.load_digits(flatten=False)
)
torch.manual_seed(0)


def accuracy(scores):
    """Return the fraction of the digits held out that are recognized."""
    return f"{float(xl.accuracy(scores.detach(), t_test)):.3f}"


# A convolution of xplayers, whose backward can be read, between layers of PyTorch.
convolution = xl.Sequential(
    xl.Convolution.init(1, 16, 3, padding=1, rng=0), xl.Relu(), xl.MaxPooling(2), xl.Flatten()
)
net = torch.nn.Sequential(Module(convolution), torch.nn.Linear(16 * 16, 10))
optimizer = torch.optim.Adam(net.parameters(), lr=0.005)
for epoch in range(8):
    for x_batch, t_batch in xl.minibatches(x, t, batch_size=64, rng=epoch):
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(net(x_batch), t_batch)
        loss.backward()
        optimizer.step()
print("trained by torch.optim:", accuracy(net.eval()(x_test)))
print("its convolution, used by itself:", tuple(convolution.predict(x_test).shape))

# A network of PyTorch, trained by the trainer of xplayers.
module = torch.nn.Sequential(
    torch.nn.Flatten(), torch.nn.Linear(64, 64), torch.nn.GELU(), torch.nn.Linear(64, 10)
)
layer = as_layer(module)
trainer = xl.Trainer(layer, xl.SoftmaxWithLoss(), xl.AdamW(0.005), epochs=8, progress=False)
trainer.fit(x, t)
print("trained by xplayers.Trainer:", accuracy(layer.predict(x_test)))
print("and the module has it:", accuracy(module.eval()(x_test)))
