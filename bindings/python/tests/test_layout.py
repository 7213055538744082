"""The generated layer against the golden table of the ABI: every struct, field and constant."""
import ctypes
import os
import unittest

from tenon import _ffi


class Layout(unittest.TestCase):
    def test_is_the_golden_one(self):
        lines = []
        for row in _ffi.LAYOUT:
            if isinstance(row, str):
                lines.append(f"{row} = {getattr(_ffi, row)}")
                continue
            lines.append(f"struct {row.__name__} size {ctypes.sizeof(row)} align {ctypes.alignment(row)}")
            for name, _ in row._fields_:
                field = getattr(row, name)
                lines.append(f"  {name} offset {field.offset} size {field.size}")
        with open(os.environ["TENON_GOLDEN_LAYOUT"], encoding="utf-8") as golden:
            self.assertEqual(lines, [line.rstrip("\n") for line in golden if not line.startswith("#")])
        self.assertGreater(len(lines), 400)


if __name__ == "__main__":
    unittest.main()
