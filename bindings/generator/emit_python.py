"""ctypes."""
import common

HEAD = '''
import ctypes as c


class _Struct(c.Structure):
    """Starts with its own size wherever the ABI asks for one."""

    def __init__(self, *values, **fields):
        super().__init__(*values, **fields)
        if self._fields_[0][0] == "struct_size" and not self.struct_size:
            last = self._fields_[-1]
            self.struct_size = getattr(type(self), last[0]).offset + c.sizeof(last[1])

'''


def spell(type_, known):
    if type_.kind == "base":
        if type_.name in common.INTEGERS:
            signed, bits = common.INTEGERS[type_.name]
            return f"c.c_{'' if signed else 'u'}int{bits}"
        return {"double": "c.c_double", "float": "c.c_float", "char": "c.c_char", "void": "None"}.get(type_.name, type_.name)
    if type_.kind == "array":
        return f"{spell(type_.inner, known)} * {type_.count}"
    if type_.kind == "function":
        return f"c.CFUNCTYPE({', '.join([spell(type_.inner, known)] + [spell(p.type, known) for p in type_.params])})"
    inner = type_.inner
    if inner.kind == "base":
        if inner.name == "char":
            return "c.c_char_p" if type_.const else "c.c_void_p"
        if inner.name == "void" or inner.name not in known | set(common.INTEGERS) | {"double", "float"}:
            return "c.c_void_p"
    return f"c.POINTER({spell(inner, known)})"


def emit(found):
    structs = common.structs(found)
    known = {s.name for s in structs}
    out = [common.note("#") + HEAD]
    out += [f"{name} = {value}" for name, value in common.constants(found)]
    out += [f'{name} = b"{value}"' for header in found for name, value in header.strings]
    out.append("")
    for s in structs:
        out += ["", f"class {s.name}(_Struct):", "    pass", ""]
    for s in structs:
        out += ["", f"{s.name}._fields_ = ["] + [f'    ("{f.name}", {spell(f.type, known)}),' for f in s.fields] + ["]"]
    out += ["", "FUNCTIONS = {  # library -> name -> (result, arguments)"]
    for library in common.LIBRARIES.values():
        out.append(f'    "{library}": {{')
        for owner, f in common.functions(found):
            if owner == library:
                arguments = ", ".join(spell(p.type, known) for p in f.params)
                out.append(f'        "{f.name}": ({spell(f.result, known)}, [{arguments}]),')
        out.append("    },")
    out += ["}", "", "LAYOUT = [  # in the order of the golden table: structs, and names of constants"]
    out += [f"    {row.name}," if kind == "struct" else f'    "{row}",' for kind, row in common.golden(found)]
    return "\n".join(out + ["]", ""])
