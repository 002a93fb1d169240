"""scikit-learn with another import: its results, in its pipelines and searches.

Below the same for a convolutional network, which scikit-learn does not have.
"""

import time
import warnings

import numpy as np
import sklearn.neural_network
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler

import xplayers as xl
import xplayers.sklearn

warnings.simplefilter("ignore", ConvergenceWarning)  # of short trainings
x, y = load_digits(return_X_y=True)
x, x_test, y, y_test = train_test_split(x, y, random_state=0)

probabilities = []
for module in (sklearn.neural_network, xplayers.sklearn):
    start = time.perf_counter()
    model = module.MLPClassifier(max_iter=60, random_state=0).fit(x, y)
    seconds, name = time.perf_counter() - start, module.__name__
    print(f"{name:22} held out {model.score(x_test, y_test):.3f}   {seconds:.1f} s")
    probabilities.append(model.predict_proba(x_test))
print(f"largest difference of the probabilities: {np.abs(np.subtract(*probabilities)).max():.0e}")

pipeline = make_pipeline(
    MinMaxScaler(), xplayers.sklearn.MLPClassifier(max_iter=30, random_state=0)
)
grid = {"mlpclassifier__hidden_layer_sizes": [(50,), (100,)], "mlpclassifier__alpha": [1e-4, 1.0]}
search = GridSearchCV(pipeline, grid, cv=3).fit(x, y)
print("the best of", len(search.cv_results_["params"]), "is", search.best_params_)


def build(shape, outputs, rng):
    """Make a network for samples of a shape, ``(1, 8, 8)``, and so many scores."""
    channels, height, width = shape
    return xl.Sequential(
        xl.Convolution.init(channels, 16, 3, padding=1, rng=rng),
        xl.Relu(),
        xl.MaxPooling(2),
        xl.Affine.init(16 * height // 2 * width // 2, outputs, rng=rng),
    )


images, images_test = ((a / 16.0).reshape(-1, 1, 8, 8).astype("float32") for a in (x, x_test))
model = xplayers.sklearn.NetClassifier(
    build, learning_rate_init=0.005, early_stopping=True, max_iter=60, random_state=0
)
model.fit(images, y)
print("a convolutional network: held out", round(model.score(images_test, y_test), 3))
