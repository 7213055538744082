"""Structs without pointers of Julia's own, constants, and one function for each of the libraries'."""
import common

RESERVED = {"end", "type", "function", "begin", "in", "do", "let", "module", "struct"}


def word(name):
    return name + "_" if name in RESERVED else name


def spell(type_, known):
    if type_.kind == "base":
        if type_.name in common.INTEGERS:
            signed, bits = common.INTEGERS[type_.name]
            return f"{'Int' if signed else 'UInt'}{bits}"
        return {"double": "Float64", "float": "Float32", "char": "UInt8", "void": "Cvoid"}.get(type_.name, type_.name)
    if type_.kind == "array":
        return f"NTuple{{{type_.count},{spell(type_.inner, known)}}}"
    if type_.kind == "function":
        return "Ptr{Cvoid}"
    inner = type_.inner
    if inner.kind == "base" and inner.name not in known | set(common.INTEGERS) | {"double", "float", "char"}:
        return "Ptr{Cvoid}"
    return f"Ptr{{{spell(inner, known)}}}"


def argument(type_, known):
    if type_.kind == "pointer" and common.is_char(type_.inner) and type_.const:
        return "Cstring"
    return spell(type_, known)


def emit(found):
    opaque = common.opaque(found)
    known = set(opaque)
    out = [common.note("#"), ""]
    out += [f"const {name} = Int32({value})" for name, value in common.constants(found)]
    out += [f'const {name} = "{value}"' for header in found for name, value in header.strings] + [""]
    out += [f"mutable struct {name} end" for name in opaque]
    for s in common.structs(found):
        out += ["", f"struct {s.name}"] + [f"    {word(f.name)}::{spell(f.type, known)}" for f in s.fields] + ["end"]
        known.add(s.name)
    functions = common.functions(found)
    names = [f":{f.name}" for _, f in functions]
    split = sum(1 for library, _ in functions if library == "tenon")
    out += ["", "# Addresses of the libraries' functions, filled when the package is loaded.",
            f"const FUNCTIONS = fill(C_NULL, {len(functions)})",
            f"const NAMES = [{', '.join(names)}]",
            f"const LIBRARY_OF = [fill(:tenon, {split}); fill(:tenon_trainer, {len(functions) - split})]", ""]
    for i, (_, f) in enumerate(functions, 1):
        names = [word(p.name) for p in f.params]
        types = "".join(f"{argument(p.type, known)}, " for p in f.params).rstrip()
        result = spell(f.result, known)
        out.append(f"{f.name}({', '.join(names)}) = ccall(FUNCTIONS[{i}], {result}, ({types}){''.join(', ' + n for n in names)})")
    out += ["", "# Structs and constants in the order of the golden table of the ABI, with C's names of the fields.", "const LAYOUT = ["]
    for kind, row in common.golden(found):
        if kind == "constant":
            out.append(f'    "{row}" => {row},')
        else:
            fields = ", ".join(f'"{f.name}"' for f in row.fields)
            out.append(f"    {row.name} => [{fields}],")
    return "\n".join(out + ["]", ""])
