import numpy

from common.np import *


def clip_grads(grads, max_norm):
    norm = np.sqrt(sum(np.sum(gradient**2) for gradient in grads))
    if norm > max_norm:
        for gradient in grads:
            gradient *= max_norm / norm


def remove_duplicate(params, grads):
    """Join parameters that are one array, or one the transpose of the other."""
    params, grads, i = params[:], grads[:], 0
    while i < len(params):
        for j in reversed(range(i + 1, len(params))):
            a, b = params[i], params[j]
            if a is b:
                grads[i] += grads[j]
            elif a.ndim == b.ndim == 2 and a.T.shape == b.shape and np.all(a.T == b):
                grads[i] += grads[j].T
            else:
                continue
            del params[j], grads[j]
        i += 1
    return params, grads


class Trainer:
    def __init__(self, model, optimizer):
        self.model, self.optimizer, self.loss_list = model, optimizer, []

    def fit(self, x, t, max_epoch=1, batch_size=8, max_grad=None):
        for epoch in range(max_epoch):
            index, total = numpy.random.permutation(numpy.arange(len(x))), 0
            x, t = x[index], t[index]
            for i in range(len(x) // batch_size):
                part = slice(i * batch_size, (i + 1) * batch_size)
                loss = self.model.forward(x[part], t[part])
                self.model.backward()
                params, grads = remove_duplicate(self.model.params, self.model.grads)
                if max_grad is not None:
                    clip_grads(grads, max_grad)
                self.optimizer.update(params, grads)
                total += loss
            self.loss_list.append(float(total))
            print("| epoch %d | loss %.2f" % (epoch + 1, total / (i + 1)))
