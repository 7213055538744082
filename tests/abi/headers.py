"""Reads the C headers of abi/tenon: what layout.py measures and what bindings/generator writes for other languages.

The headers are written in a plain subset of C11 that this parser takes in full; a declaration that it does not understand is an error,
never left out."""
import dataclasses
import pathlib
import re
import typing

ROOT = pathlib.Path(__file__).resolve().parents[2]
HEADERS = ROOT / "abi" / "tenon"


@dataclasses.dataclass(frozen=True)
class Type:
    """kind: "base" (name), "pointer" (to inner; const: what it points to is not written), "array" (count of inner), "function" (a
    pointer to a function of params, which answers inner)."""
    kind: str
    name: str = ""
    inner: typing.Optional["Type"] = None
    const: bool = False
    count: int = 0
    params: tuple = ()


@dataclasses.dataclass(frozen=True)
class Named:
    name: str
    type: Type


@dataclasses.dataclass
class Struct:
    name: str
    fields: list


@dataclasses.dataclass
class Function:
    name: str
    result: Type
    params: list


@dataclasses.dataclass
class Header:
    name: str
    includes: list
    structs: list
    constants: list  # (name, value): enumerators and the TN_ABI_* and TN_ALIGNMENT macros, in the order of declaration
    strings: list    # (name, value) of macros that are texts
    statuses: list   # (name, value)
    opaque: list     # names of handles
    callbacks: list  # Named function types
    functions: list


def strip(text):
    """Without comments, preprocessor lines and the C++ linkage block."""
    text = re.sub(r"/\*.*?\*/", " ", text, flags=re.S)
    text = re.sub(r"\\\n", " ", text)
    return re.sub(r"^\s*#.*$", "", text, flags=re.M)


class Declaration:
    """A recursive descent over one declaration."""

    def __init__(self, text):
        self.text = " ".join(text.split())
        self.tokens = re.findall(r"\w+|\S", text)
        self.at = 0

    def peek(self, offset=0):
        i = self.at + offset
        return self.tokens[i] if i < len(self.tokens) else ""

    def take(self, expected=None):
        token = self.peek()
        if not token or (expected and token != expected):
            raise ValueError(f"cannot read the declaration {self.text!r} at {token!r}: {expected or 'more'} is expected")
        self.at += 1
        return token

    def base(self):
        const = False
        while self.peek() in ("const", "struct"):
            const = self.take() == "const" or const
        name = self.take()
        if self.peek() == "const":
            self.take()
            const = True
        return Type("base", name), const

    def declarator(self, type_, const):
        while self.peek() == "*":
            self.take()
            type_, const = Type("pointer", inner=type_, const=const), False
            if self.peek() == "const":
                self.take()
                const = True
        if self.peek() == "(":
            self.take(), self.take("*")
            name = self.take()
            self.take(")")
            return Named(name, Type("function", inner=type_, params=tuple(self.params())))
        name = self.take() if re.match(r"[A-Za-z_]", self.peek()) else ""
        counts = []
        while self.peek() == "[":
            self.take()
            counts.append(int(self.take()))
            self.take("]")
        for count in reversed(counts):
            type_ = Type("array", inner=type_, count=count)
        return Named(name, type_)

    def params(self):
        self.take("(")
        found = []
        if self.peek() == "void" and self.peek(1) == ")":
            self.take()
        while self.peek() != ")":
            found.append(self.declarator(*self.base()))
            if self.peek() == ",":
                self.take()
        self.take(")")
        return [Named(p.name or f"arg{i}", p.type) for i, p in enumerate(found)]

    def all(self):
        """`int a, *b` and the like."""
        base, const = self.base()
        found = [self.declarator(base, const)]
        while self.peek() == ",":
            self.take()
            found.append(self.declarator(base, const))
        if self.peek():
            self.take("the end")
        return found


def fields(body):
    return [field for declaration in body.split(";") if declaration.strip() for field in Declaration(declaration).all()]


def enumerators(body, known):
    found, last = [], -1
    for part in filter(None, (p.strip() for p in body.split(","))):
        name, _, value = (x.strip() for x in part.partition("="))
        if not re.fullmatch(r"TN_\w+", name):
            raise ValueError(f"cannot read the enumerator {part!r}")
        last = known[value] if value in known else int(value, 0) if value else last + 1
        known[name] = last
        found.append((name, last))
    return found


def parse(path, known):
    raw = path.read_text(encoding="utf-8")
    text = strip(raw)
    constants = []
    for body in re.findall(r"enum \{(.*?)\}", text, flags=re.S):
        if "TN_STATUS_LIST" not in body:
            constants += enumerators(body, known)
    constants += [(m[1], int(m[2], 0)) for m in re.finditer(r"^#define (TN_ABI_\w+|TN_ALIGNMENT) (\w+)", raw, flags=re.M)]
    structs = [Struct(m[1], fields(m[2])) for m in re.finditer(r"typedef struct (\w+) \{(.*?)\}\s*\1\s*;", text, flags=re.S)]
    functions = []
    for m in re.finditer(r"^TN_API (.*?);", text, flags=re.M | re.S):
        reader = Declaration(m[1])
        type_, const = reader.base()
        result = reader.declarator(type_, const)  # stops before the parameters, which are no function pointer
        functions.append(Function(result.name, result.type, reader.params()))
    callbacks = [named for m in re.finditer(r"typedef (\w+ \(\*.*?);", text, flags=re.S) for named in Declaration(m[1]).all()]
    return Header(
        name=path.name,
        includes=re.findall(r'^#include "tenon/(\w+\.h)"', raw, flags=re.M),
        structs=structs,
        constants=constants,
        strings=re.findall(r'^#define (TN_\w+) "([^"]*)"', raw, flags=re.M),
        statuses=[(n, int(v)) for n, v in re.findall(r"^\s*X\((TN_\w+), (-?\d+),", raw, flags=re.M)],
        opaque=re.findall(r"typedef struct (\w+) \1;", text),
        callbacks=callbacks,
        functions=functions)


def read(folder=HEADERS):
    """Every header, by name."""
    known = {}
    return [parse(path, known) for path in sorted(folder.glob("*.h"))]


def in_dependency_order(headers):
    """Each header after those that it includes."""
    by_name, done = {h.name: h for h in headers}, []

    def visit(header):
        for name in header.includes:
            visit(by_name[name])
        if header not in done:
            done.append(header)

    for header in headers:
        visit(header)
    return done
