#!/usr/bin/env python3
"""Writes plugins/sdk/normal_quantiles.h: the upper half of the noise table of zeroth-order optimizers, as f32 bits.

normal_quantiles.py > plugins/sdk/normal_quantiles.h
"""
import math
import struct

# Wichura 1988, AS 241, PPND16: the unit normal's quantile, to 1e-16 relative.
CENTRAL = ([2509.0809287301226727, 33430.575583588128105, 67265.770927008700853, 45921.953931549871457, 13731.693765509461125,
            1971.5909503065514427, 133.14166789178437745, 3.3871328727963666080],
           [5226.4952788528545610, 28729.085735721942674, 39307.895800092710610, 21213.794301586595867, 5394.1960214247511077,
            687.18700749205790830, 42.313330701600911252, 1.0])
TAIL = ([7.74545014278341407640e-4, 0.0227238449892691845833, 0.241780725177450611770, 1.27045825245236838258, 3.64784832476320460504,
         5.76949722146069140550, 4.63033784615654529590, 1.42343711074968357734],
        [1.05075007164441684324e-9, 5.47593808499534494600e-4, 0.0151986665636164571966, 0.148103976427480074590, 0.689767334985100004550,
         1.67638483018380384940, 2.05319162663775882187, 1.0])


def ratio(polynomials, r):
    values = []
    for coefficients in polynomials:
        value = 0.0
        for c in coefficients:
            value = value * r + c
        values.append(value)
    return values[0] / values[1]


def quantile(p):
    q = p - 0.5
    if abs(q) <= 0.425:
        return q * ratio(CENTRAL, 0.180625 - q * q)
    return ratio(TAIL, math.sqrt(-math.log(1 - p)) - 1.6)


def f32(x):
    return struct.unpack("<f", struct.pack("<f", x))[0]


def main():
    print("// Written by tests/reference/normal_quantiles.py: entries 2048 to 4095 of the table in normal_table.h.\n#pragma once\n")
    print("namespace tenon::sdk {\n\ninline constexpr float kUpperQuantiles[2048] = {")
    # The factor makes the table's variance 1; it is an f32, and so is the product.
    entries = [f32(f32(1.00016031) * f32(quantile((k + 0.5) / 4096))).hex() for k in range(2048, 4096)]
    short = [e.replace("0000000p", "p") + "f" for e in entries]
    for at in range(0, 2048, 7):
        print("    " + ", ".join(short[at:at + 7]) + ",")
    print("};\n\n}  // namespace tenon::sdk")


main()
