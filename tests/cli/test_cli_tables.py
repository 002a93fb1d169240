"""Tables in text files: their columns as samples, categories and labels."""

import csv
import io
import tomllib
from pathlib import Path

import numpy as np
import pytest
from commands import TINY, main, refusal, refused, train

import xplayers as xl

pytestmark = pytest.mark.host

ROWS = [
    (i, ("Oslo", "São, Paulo", "Rome")[i % 3], i % 7 - 2.5, "yes" if i % 3 else "no")
    for i in range(60)
]
NAMES = ("age", "city", "income", "buys")
RUN = (*TINY, "--target", "buys", "--categories", "city", "--save", "m.safetensors")


def write(path="own.csv", rows=ROWS, names=NAMES, encoding="utf-8", **options):
    text = io.StringIO()
    csv.writer(text, **options).writerows([names, *rows])
    Path(path).write_bytes(text.getvalue().encode(encoding))


def predictions(capsys, path):
    assert main(["predict", "m.safetensors", path, "--backend", "numpy"]) == 0
    return capsys.readouterr().out.splitlines()[1:]


@pytest.mark.parametrize(
    "options",
    [{}, {"delimiter": ";"}, {"delimiter": "\t"}, {"encoding": "utf-8-sig"},
     {"lineterminator": "\r\n"}, {"quoting": csv.QUOTE_ALL}],
    ids=str,
)  # fmt: skip
def test_a_table_from_training_to_predictions(capsys, home, options):
    write(**options)
    out = train(capsys, *RUN, "--dataset", "own.csv", "--epochs", "60", "--lr", "0.02")
    assert "own.csv: 48 samples to train on, 12 held out\nnetwork: 5 -> 8 -> 2," in out
    model = xl.load_model("m.safetensors")
    assert model.classes == ("no", "yes")
    assert model.columns.features == (
        "age", "city=Oslo", "city=Rome", "city=São, Paulo", "income"
    )  # fmt: skip
    assert main(["evaluate", "m.safetensors", "--backend", "numpy"]) == 0
    assert "own.csv, held out: 12 samples" in capsys.readouterr().out
    # The order of columns is free, and the target need not be there.
    write("new.csv", [row[2::-1] for row in ROWS[:9]], NAMES[2::-1])
    assert predictions(capsys, "new.csv") == [row[3] for row in ROWS[:9]]
    write("all.csv", ROWS[:9])
    assert predictions(capsys, "all.csv") == [row[3] for row in ROWS[:9]]


def test_the_samples_are_those_of_pandas(home):
    pandas = pytest.importorskip("pandas")
    from xplayers.cli import datasets

    write()
    data = datasets.read("own.csv", target="buys", categories=["city"])
    table = pandas.read_csv("own.csv")
    expected = pandas.get_dummies(table[["age", "city", "income"]], columns=["city"], dtype=float)
    expected = expected[["age", "city_Oslo", "city_Rome", "city_São, Paulo", "income"]].to_numpy()
    x, t = np.concatenate([data.x, data.x_test]), np.concatenate([data.t, data.t_test])
    order = np.lexsort(x.T)
    np.testing.assert_array_equal(x[order], expected[np.lexsort(expected.T)])
    assert np.array_equal(t[np.argsort(x[:, 0])], (table["buys"] == "yes").astype(int))


def test_integer_labels_and_columns_of_numbers_as_categories(capsys, home):
    write(
        rows=[(zip_code, 0.5 * i, i % 2) for i, zip_code in enumerate([1010, 2020] * 25)],
        names="abc",
    )
    train(
        capsys,
        *TINY,
        "--dataset",
        "own.csv",
        "--target",
        "c",
        "--categories",
        "a",
        "--save=m.safetensors",
    )
    model = xl.load_model("m.safetensors")
    assert (model.classes, model.columns.categories) == ((0, 1), {"a": ("1010", "2020")})


def test_it_is_repeated_by_its_configuration(capsys, home):
    write()
    first = train(capsys, *RUN, "--dataset", "own.csv")
    assert tomllib.loads(Path("m.config.toml").read_text())["categories"] == ["city"]
    again = train(capsys, "--config", "m.config.toml")
    assert first == again + "saved in m.safetensors\n"


def changed(row, column, value):
    rows = [list(r) for r in ROWS]
    rows[row][column] = value
    return rows


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (changed(3, 0, ""), "line 5, column age: the value is missing ('')"),
        (changed(3, 0, "NA"), "line 5, column age: the value is missing ('NA')"),
        (changed(59, 2, "nan"), "line 61, column income: the value is missing ('nan')"),
        (changed(0, 1, " "), "line 2, column city: the value is missing ('')"),
        (changed(1, 3, ""), "line 3, column buys: the value is missing ('')"),
        (changed(3, 0, "old"), "line 5, column age: 'old' is not a number"),
        (changed(3, 2, "1_0"), "line 5, column income: '1_0' is not a number"),
        (changed(3, 2, "1,5"), "column income: '1,5' is not a number: write a decimal point"),
        (changed(3, 2, "inf"), "line 5, column income: 'inf' is not finite"),
        (changed(3, 1, "1\n2\n3")[:4] + changed(0, 0, "x")[:1], "line 8, column age: 'x' is not"),
        ([*ROWS, (1, 2, 3)], "line 62 has 3 values; the first line names 4 columns"),
        ([], "own.csv has a line of names, and no row"),
    ],
)  # fmt: skip
def test_values_that_are_refused(capsys, home, rows, words):
    write(rows=rows)
    assert words in refused(capsys, "train", *RUN, "--dataset", "own.csv")


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (("age", "age", "income", "buys"), "own.csv has two columns called 'age'"),
        (("age", "", "income", "buys"), "own.csv has no name for column 2"),
        (
            ("1", "2", "3", "4"),
            "own.csv begins with the numbers 1, 2, 3; expected a different name",
        ),
        (
            ("age", "town", "income", "buys"),
            "--categories: own.csv has no column city; it has age, t",
        ),
        (
            ("age", "city", "income", "Buys"),
            "--target: own.csv has no column buys; it has age, city",
        ),
    ],
)
def test_names_that_are_refused(capsys, home, names, words):
    write(names=names)
    assert words in refused(capsys, "train", *RUN, "--dataset", "own.csv")


def test_options_that_do_not_fit(capsys, home):
    write()
    run = ("train", *TINY, "--dataset", "own.csv")
    line = refusal(capsys, *run)
    assert (
        "own.csv is a text table, as CSV; expected an .npz file. `xplayers train --target" in line
    )
    assert "'Oslo' is text; --categories city takes" in refusal(capsys, *run, "--target", "buys")
    assert "--categories goes with --target" in refusal(capsys, *run, "--categories", "city")
    line = refusal(capsys, *run, "--target", "buys", "--categories", "city", "buys")
    assert "buys is the target, whose different values are the classes" in line
    assert "--target goes with data of your own, not with digits" in refusal(
        capsys, "train", "--target", "buys"
    )
    np.savez("own.npz", x=np.zeros((3, 2)), t=np.arange(3))
    line = refusal(capsys, "train", "--dataset", "own.npz", "--target", "t")
    assert "own.npz is a zip archive, as .npz files are; --target goes with a table (CSV)" in line
    Path("own.csv").write_bytes("age,ort\n1,Köln\n2,Bonn\n".encode("latin-1"))
    assert "own.csv is not UTF-8: byte" in refusal(capsys, *run, "--target", "ort")


def test_tables_that_a_model_does_not_take(capsys, home):
    write()
    train(capsys, *RUN, "--dataset", "own.csv")
    write("new.csv", changed(2, 1, "Paris"))
    line = refusal(capsys, "predict", "m.safetensors", "new.csv")
    assert (
        "line 4, column city: 'Paris' is none of the categories of the training: Oslo, Ro" in line
    )
    write("new.csv", [row[1:] for row in ROWS], NAMES[1:])
    line = refusal(capsys, "predict", "m.safetensors", "new.csv")
    assert "the model: new.csv has no column age; it has city, income, buys" in line
    write()
    with open("own.csv", "a") as file:
        file.write("3,Oslo,1,no\n")
    assert "own.csv has changed since m.safetensors" in refusal(capsys, "evaluate", "m.safetensors")
