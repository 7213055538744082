#!/usr/bin/env python3
"""Writes plugins/sdk/normal_quantiles.h: the upper half of the noise table of zeroth-order optimizers, as f32 bits, and the polynomials that give
these very bits without a table.

normal_quantiles.py > plugins/sdk/normal_quantiles.h      # prints the sum that a test expects of the whole table on standard error

Entry k >= 2048 is the unit normal's quantile of 1 - x/8192, x = 8191 - 2 k, to 1e-6, times a factor that makes the table's variance 1. The octaves of x
are halved; in each half a polynomial of degree 5 in t = (the half's part of x's mantissa) - 1/4 interpolates the quantile at Chebyshev's nodes. The
table holds what f32 fused multiply-adds make of it, here by exact fractions.
"""
import math
import struct
import sys
from fractions import Fraction

# Wichura 1988, AS 241, PPND16: the unit normal's quantile, to 1e-16 relative.
CENTRAL = ([2509.0809287301226727, 33430.575583588128105, 67265.770927008700853, 45921.953931549871457, 13731.693765509461125,
            1971.5909503065514427, 133.14166789178437745, 3.3871328727963666080],
           [5226.4952788528545610, 28729.085735721942674, 39307.895800092710610, 21213.794301586595867, 5394.1960214247511077,
            687.18700749205790830, 42.313330701600911252, 1.0])
TAIL = ([7.74545014278341407640e-4, 0.0227238449892691845833, 0.241780725177450611770, 1.27045825245236838258, 3.64784832476320460504,
         5.76949722146069140550, 4.63033784615654529590, 1.42343711074968357734],
        [1.05075007164441684324e-9, 5.47593808499494534600e-4, 0.0151986665636164571966, 0.148103976427480074590, 0.689767334985100004550,
         1.67638483018380384940, 2.05319162663775882187, 1.0])
DEGREE = 5


def ratio(polynomials, r):
    values = []
    for coefficients in polynomials:
        value = 0.0
        for c in coefficients:
            value = value * r + c
        values.append(value)
    return values[0] / values[1]


def upper_quantile(tail):
    """Of 1 - tail, tail <= 1/2."""
    q = 0.5 - tail
    if q <= 0.425:
        return q * ratio(CENTRAL, 0.180625 - q * q)
    return ratio(TAIL, math.sqrt(-math.log(tail)) - 1.6)


def interpolated(octave, half):
    """Coefficients in t, from the constant one."""
    nodes = [math.cos(math.pi * (i + 0.5) / (DEGREE + 1)) / 4 for i in range(DEGREE + 1)]
    table = [upper_quantile(2.0**octave * (1 + half / 2 + 0.25 + t) / 8192) for t in nodes]
    for order in range(1, DEGREE + 1):  # Newton's divided differences
        for i in range(DEGREE, order - 1, -1):
            table[i] = (table[i] - table[i - 1]) / (nodes[i] - nodes[i - order])
    terms = [table[DEGREE]]
    for i in range(DEGREE - 1, -1, -1):  # terms <- terms * (t - nodes[i]) + table[i]
        terms = [table[i] - nodes[i] * terms[0]] + [terms[j - 1] - (nodes[i] * terms[j] if j < len(terms) else 0) for j in range(1, len(terms) + 1)]
    return terms


def f32(x):
    """The nearest f32 of a fraction or a double, as a fraction."""
    x = Fraction(x)
    if x == 0:
        return x
    unit = Fraction(2) ** (math.frexp(float(x))[1] - 24)
    return round(x / unit) * unit


def entry(terms, x):
    octave = x.bit_length() - 1
    t = Fraction(x, 2**octave) - 1
    t -= Fraction(1, 4) + (Fraction(1, 2) if t >= Fraction(1, 2) else 0)
    rounded = terms[octave, int(2 * (Fraction(x, 2**octave) - 1))]
    value = rounded[DEGREE]
    for c in reversed(rounded[:DEGREE]):
        value = f32(value * t + c)
    return value


def literal(x):
    mantissa, exponent = float(x).hex().split("p")
    head, _, digits = mantissa.partition(".")
    digits = digits.rstrip("0")
    return f"{head}.{digits}p{exponent}f" if digits else f"{head}p{exponent}f"


def rows(values, count):
    return "\n".join("    " + ", ".join(values[at:at + count]) + "," for at in range(0, len(values), count))


def main():
    plain = {(octave, half): interpolated(octave, half) for octave in range(12) for half in range(2)}
    factor = 1.00016031
    for _ in range(3):
        terms = {key: [f32(factor * c) for c in value] for key, value in plain.items()}
        entries = [entry(terms, 8191 - 2 * k) for k in range(2048, 4096)]
        factor /= math.sqrt(float(sum(e * e for e in entries)) / 2048)
    worst = max(abs(float(e) - 1.00016031 * upper_quantile((8191 - 2 * k) / 8192)) for k, e in enumerate(entries, 2048))
    assert worst < 1e-6, worst
    print("// Written by tests/reference/normal_quantiles.py: entries 2048 to 4095 of the table in normal_table.h, and what makes them in registers.\n#pragma once\n")
    print("namespace tenon::sdk {\n\ninline constexpr float kUpperQuantiles[2048] = {")
    print(rows([literal(e) for e in entries], 7))
    print("};\n")
    print("// The coefficients of t^5 to t^0 for the bits 22 to 26 of the f32 x.")
    print(f"alignas(64) inline constexpr float kQuantileTerms[{DEGREE + 1}][32] = {{")
    for power in range(DEGREE, -1, -1):
        of_bits = [Fraction(0)] * 32
        for (octave, half), value in terms.items():
            of_bits[(2 * (127 + octave) + half) % 32] = value[power]
        print("    {" + rows([literal(c) if c else "0" for c in of_bits], 8).strip().rstrip(",") + "},")
    print("};\n\n}  // namespace tenon::sdk")
    total = 0
    for e in [-e for e in reversed(entries)] + entries:
        total = (total * 1099511628211 + struct.unpack("<I", struct.pack("<f", float(e)))[0]) % 2**64
    print(f"sum {total}, worst error {worst:.2e}", file=sys.stderr)


main()
