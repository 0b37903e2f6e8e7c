"""What Python's Jinja makes of chat templates: the engine they were written for, set up as model publishers run it.

    expected.py write FOLDER             renders every chat of chats.json with every template of FOLDER into expected.json,
                                         and the templates of expressions.json into that file
    expected.py show FOLDER NAME CHAT    prints one rendering
    expected.py try TEMPLATE             renders one template with the variables of expressions.json

Needs jinja2 3.1.6 (`pip install jinja2==3.1.6`). FOLDER is `test-data/llama-cpp-models/templates` in Cargo's target folder, once
a test has fetched it. The templates are other people's, so expected.json has lengths and hashes of what they render.
"""

import datetime
import functools
import hashlib
import json
import pathlib
import sys

import jinja2
import jinja2.ext
import jinja2.sandbox

HERE = pathlib.Path(__file__).parent

# A Sunday, at noon: the same day in every time zone.
NOW = datetime.datetime(2026, 7, 5, 12)


class Refused(jinja2.exceptions.TemplateError):
    """Raised by a template on purpose."""


class Generation(jinja2.ext.Extension):
    """{% generation %} marks what a trainer learns from; a prompt shows its body."""

    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("body"), [], [], body).set_lineno(line)

    def body(self, caller):
        return caller()


def raise_exception(message):
    raise Refused(message)


def tojson(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


@functools.cache
def environment():
    made = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols]
    )
    made.filters["tojson"] = tojson
    made.filters["from_json"] = json.loads
    made.globals["raise_exception"] = raise_exception
    made.globals["strftime_now"] = NOW.strftime
    return made


@functools.lru_cache(maxsize=1)
def compiled(source):
    return environment().from_string(source)


def render(source, variables):
    """The text, or what went wrong: the message of a refusal or the name of an exception."""
    try:
        return {"text": compiled(source).render(variables)}
    except Refused as refusal:
        return {"refusal": str(refusal)}
    except Exception as error:
        return {"error": type(error).__name__}


def read(name):
    return json.loads((HERE / name).read_text(encoding="utf-8"))


def always():
    """The variables that every template has."""
    tokens = read("chats.json")["tokens"]
    return {"messages": [], "tools": None, "documents": None, "add_generation_prompt": True, **tokens}


def chats():
    """The variables of each chat."""
    file = read("chats.json")
    for title, chat in file["chats"].items():
        variables = {**always(), **chat}
        if isinstance(variables["tools"], str):
            variables["tools"] = file["tools"][variables["tools"]]
        yield title, variables


def digest(outcome):
    """`ok LENGTH HASH`, `refused LENGTH HASH` or `fails NAME`, with the length in bytes."""
    if "error" in outcome:
        return f"fails {outcome['error']}"
    kind, text = ("ok", outcome["text"]) if "text" in outcome else ("refused", outcome["refusal"])
    data = text.encode()
    return f"{kind} {len(data)} {hashlib.sha256(data).hexdigest()[:32]}"


def write_templates(folder):
    expected = {}
    for path in sorted(folder.glob("*.jinja")):
        source = path.read_text(encoding="utf-8")
        expected[path.stem] = {title: digest(render(source, variables)) for title, variables in chats()}
    dump(HERE / "expected.json", expected)


def write_expressions():
    """One line for each template, so that changes are easy to see."""
    file = read("expressions.json")
    variables = {**always(), **file["variables"]}
    cases = [{"template": case["template"], **render(case["template"], variables)} for case in file["cases"]]
    lines = ",\n".join(json.dumps(case, ensure_ascii=False) for case in cases)
    variables = json.dumps(file["variables"], ensure_ascii=False)
    text = f'{{\n"variables": {variables},\n"cases": [\n{lines}\n]\n}}\n'
    (HERE / "expressions.json").write_text(text, encoding="utf-8")


def dump(path, value):
    path.write_text(json.dumps(value, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def show(folder, name, title):
    source = (folder / f"{name}.jinja").read_text(encoding="utf-8")
    return render(source, dict(chats())[title])


def main(command, *arguments):
    assert jinja2.__version__ == "3.1.6", "the expectations were made with jinja2 3.1.6"
    if command == "write":
        write_templates(pathlib.Path(arguments[0]))
        write_expressions()
    elif command == "show":
        folder, name, title = arguments
        print(*show(pathlib.Path(folder), name, title).values(), sep="", end="")
    elif command == "try":
        print(render(arguments[0], {**always(), **read("expressions.json")["variables"]}))
    else:
        sys.exit(__doc__)


if __name__ == "__main__":
    main(*(sys.argv[1:] or ["help"]))
