"""The reader of YAML: what goes in comes out, and what is wrong is an InputError with a place, soon and small."""

import random
import resource
import time
from pathlib import Path

import pytest
import yaml

from hpc_kit.spec import yaml_text
from hpc_kit.spec.document import Strict
from hpc_kit.spec.errors import InputError
from hpc_kit.spec.image import Image, load_image
from hpc_kit.spec.job import Job, load_job
from hpc_kit.spec.site import Site, load_site
from hpc_kit.spec.yaml_text import parse, read_yaml, write_yaml

BOMB = "a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1]\n" + "".join(
    f"a{n + 1}: &a{n + 1} [{', '.join([f'*a{n}'] * 9)}]\n" for n in range(9)
)


def _place(line: int, column: int) -> str:
    return f"{line}:{column}"


@pytest.fixture(params=["C", "Python"])
def parser(request, monkeypatch):
    """Both parsers of PyYAML: where it was built without libyaml there is one."""
    if request.param == "Python":
        monkeypatch.setattr(yaml_text, "_Parser", yaml.Loader)
    else:
        assert yaml_text._Parser is yaml.CLoader


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (BOMB, "5:35: more than 50000 values, those of aliases included"),
        ("a: &a [1, *a]", "1:11: *a stands inside of itself"),
        ("a: *b", "1:4: *b refers to nothing: no &b stands before it"),
        ("a: " + "[" * 5000, "1:44: nested deeper than 40 levels"),
        ("- " * 5000, "1:83: nested deeper than 40 levels"),
        ("a: 1\n? [1, 2]\n: 3", "2:3: a key must be text, not a list"),
        ("{a: 1}: 2", "1:1: a key must be text, not a list"),
        ("a: &a b\n*a : 2", "2:1: a key must be text, not a list, keys and values, or an alias"),
        ("a:\n  1: 2", '2:3: a key must be text: write "1" in quotes'),
        ("a: !!int foo", "1:4: not valid YAML: 'foo' is no int"),
        ('a: !!int "5\\n"', "1:4: not valid YAML: '5\\n' is no int"),
        ("a: !!python/name:os.system", "1:4: not valid YAML: the tag !!python/name:os.system is not known"),
        ("a: !!set {b}", "1:4: not valid YAML: the tag !!set is not known"),
        ("a: b\nc: \0", "2:4: the character U+0000 is not allowed"),
        ("a: b\n\n\x07", "3:1: the character U+0007 is not allowed"),
        ("a: \udcff", "1:4: the character U+DCFF is not allowed"),
        ("a: " + "9" * 5000, "1:4: a number of 5000 characters; 40 are enough"),
        ("a: 9223372036854775808", "1:4: the number 9223372036854775808 is too large"),
        ("a: 1e999", "1:4: the number 1e999 is too large"),
        ("a: b\n---\nc: d", "2:1: a second document begins here"),
        ("a:\n  b: 1\n  b: 2", "3:3: a.b: is written twice (first in line 2)"),
        ("a: [1, 2", "not valid YAML: "),
        ("a:\n\t- b", "2:1: not valid YAML: "),
        ("a: 1\n" * 300_000, f"1:1: larger than {1 << 20} bytes"),
    ],
    ids=lambda value: value[:20],
)
def test_what_is_wrong_has_a_line_and_a_column(parser, text, message):
    with pytest.raises(InputError) as caught:
        parse(text, _place)
    assert message in str(caught.value)


def test_file_that_is_no_text_is_named_with_the_place(tmp_path):
    path = tmp_path / "latin.yaml"
    path.write_bytes("name: x\nnote: Ångström\n".encode("latin-1"))
    with pytest.raises(InputError, match=rf"^{path}:2:7: is not text in UTF-8$"):
        read_yaml(path)


def test_byte_order_mark_is_no_part_of_the_first_key(tmp_path):
    path = tmp_path / "job.yaml"
    path.write_bytes("name: x\n".encode("utf-8-sig"))
    assert read_yaml(path) == ({"name": "x"}, [(("name",), 1)])


def test_value_through_an_alias_is_a_copy_that_keeps_its_place():
    data, places = parse("a: &x\n  b: [1]\nc: *x\n", _place)
    assert data == {"a": {"b": [1]}, "c": {"b": [1]}} and data["a"]["b"] is not data["c"]["b"]
    assert dict(places)[("c", "b", 0)] == 2 and dict(places)[("c",)] == 3


@pytest.mark.parametrize(
    "value",
    ["1e-3", "08", "12e4", "no", "~", "", "0x1f", "1_000", "02:00:00", "2020-01-01", "a: b", " x ", "Å", "=", "x\ny"],
)
def test_text_stays_text_when_it_is_written_and_read(value):
    data = {"value": value, "in a list": [value], value or "empty": 1}
    assert parse(write_yaml(data), _place)[0] == data


def test_numbers_stay_what_they_are_when_they_are_written_and_read():
    data = {"numbers": [1e-5, 1e22, 0.1, float("inf"), -3, 2**63 - 1, True, False, None]}
    assert repr(parse(write_yaml(data), _place)[0]) == repr(data)


PIECES = [
    *"[]{}&*!|>%@`'\",:?-#~\n\t ",
    *("a", "name", "train", "data", "model", "grid", "epochs", "split", "seeds", "import", "args", "resources"),
    *("&a ", "*a", "<<: *a", "? ", ": ", "- ", "--- ", "...\n", "!!int ", "!!float ", "!!binary ", "!<x> ", "!t%00 "),
    *(
        "%YAML 1.1\n",
        "%TAG ! x\n",
        '"\\0"',
        '"\\ud800"',
        '"\\x1b"',
        '"\\',
        "\0",
        "\x85",
        "\u2028",
        "\ufeff",
        "\udc80",
    ),
    *("1e999", ".inf", ".nan", "-.inf", "9" * 30, "9" * 5000, "1" + "0" * 400 + ".5", "0x1f", "null", "true"),
    *("\n  ", "\n    ", "\n- ", "\n  - ", "[" * 60, "{a: " * 60, "- " * 60, "x" * 3000, "schnet", "fp32", "train"),
]
INNER = [
    *("name", "split", "graph", "target", "train.epochs", "import", "args", "manifest", "walltime", "folds", "val"),
    *("torch", "cpu", "cores", "memory_gb", "docker", "per", "unit", "command", "epochs", "path", "source"),
]


def _pieces(random: random.Random, model: type[Strict]) -> str:
    return "".join(random.choices(PIECES, k=random.randint(1, 40)))


def _value(random: random.Random, depth: int = 0) -> object:
    simple = [
        None,
        True,
        -1,
        0,
        3,
        2**62,
        0.5,
        float("nan"),
        float("inf"),
        "",
        "x",
        "fp32",
        "a\nb",
        "\x1b",
        "02:00:00",
    ]
    kind = random.randrange(6 if depth < 5 else 4)
    if kind < 4:
        return random.choice(simple)
    if kind == 4:
        return [_value(random, depth + 1) for _ in range(random.randrange(4))]
    return {random.choice(INNER): _value(random, depth + 1) for _ in range(random.randrange(5))}


def _fields(random: random.Random, model: type[Strict]) -> str:
    """A document whose keys are right and whose values are anything."""
    keys = list(model.model_fields)
    return write_yaml({key: _value(random) for key in random.sample(keys, random.randint(1, len(keys)))})


@pytest.mark.parametrize(
    ("load", "model"), [(load_job, Job), (load_site, Site), (lambda path: load_image(Path(path)), Image)]
)
@pytest.mark.parametrize("made", [_pieces, _fields])
def test_any_document_is_read_or_an_input_error_soon_and_small(tmp_path, made, load, model):
    path = tmp_path / "job.yaml"
    numbers = random.Random(made.__name__)
    errors = 0
    begun, before = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for number in range(200):
        text = made(numbers, model)
        path.write_text(text, encoding="utf-8", errors="surrogatepass")
        try:
            load(str(path))
        except InputError as error:
            errors += 1
            assert str(path) in str(error) and len(str(error)) < 30_000, text
        except Exception as error:
            raise AssertionError(f"{type(error).__name__} for document {number}: {text!r}") from error
    assert errors > 150
    assert time.process_time() - begun < 10
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # kB


@pytest.mark.parametrize("text", [BOMB, "{" * 100_000, "a: 1\n" * 200_000, "[1, " * 20 + "1, " * 300_000])
def test_document_made_to_cost_is_refused_soon_and_small(parser, text):
    begun, before = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(InputError):
        parse(text, _place)
    assert time.process_time() - begun < 10
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # kB


@pytest.mark.parametrize(
    "text", ["train=[", "train.epochs=!!int foo", "train.epochs=\udcff", "train=*a", "a.b={1: 2}"]
)
def test_override_that_is_no_yaml_is_named_with_its_column(text):
    with pytest.raises(InputError, match=r"^--set [a-z.]+: (line 2, )?column \d+ of its value: "):
        load_job("quickstart", [text])
