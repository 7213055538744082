"""What the authors' sampler keeps for certain, and the probabilities by which it draws the rest.

    python wta-crs.py FOLDER        # of a checkout of zirui-ray-liu/WTACRS at e114d35
"""
import pathlib
import sys

import torch

from golden import noise, pieces, save

adaptive, select = pieces(pathlib.Path(sys.argv[1]) / "seq2seq" / "approxlinear" / "functional.py", "k_adaptive_3D", "topk_selection_3D", torch=torch, topk=torch.topk)
CASES = {"even": dict(rows=40, power=0.0, k=12), "some": dict(rows=64, power=4.0, k=19), "heavy": dict(rows=50, power=12.0, k=20), "few": dict(rows=200, power=6.0, k=10)}

tensors = {}
for i, (name, c) in enumerate(CASES.items()):
    norms = torch.from_numpy(noise(3500 + i, (c["rows"],))).abs().add(0.1).pow(c["power"])
    if name == "heavy":
        norms[7] *= 1000
    prob = (norms + 1e-8) / (norms.sum() + 1e-8)
    certain, drawn = adaptive(prob.double(), c["k"])
    rows = torch.arange(c["rows"], dtype=torch.float64).unsqueeze(1)
    _, index, mass, rest, _ = select(rows, prob.double(), int(certain), c["rows"])
    tensors |= {f"{name}.norms": norms, f"{name}.prob": prob, f"{name}.certain": torch.tensor([int(certain)]), f"{name}.mass": torch.tensor([float(mass)])}
    if index is not None:
        tensors[f"{name}.index"] = index
save("wta-crs/wta-crs.safetensors", tensors, settings=CASES)
