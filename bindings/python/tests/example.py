"""The worked example: example.py STORE FOLDER. The other languages' examples print the same digits."""
import pathlib
import struct
import sys

import tenon

SAMPLES, IN, OUT, STEPS = 16, 16, 8, 150


def fill(n, seed):
    """n numbers of [-0.5, 0.5) that every language makes alike, exact in float32."""
    numbers = []
    for _ in range(n):
        seed = (seed * 6364136223846793005 + 1442695040888963407) % 2**64
        numbers.append((seed >> 40) / 16777216.0 - 0.5)
    return numbers


def digest(data):
    h = 14695981039346656037
    for byte in bytes(data):
        h = (h ^ byte) * 1099511628211 % 2**64
    return f"{h:016x}"


def tensor(session, shape, numbers):
    import numpy
    t = session.tensor(shape)
    t.write(numpy.array(numbers, dtype=numpy.float32).reshape(shape))
    return t


def loss_and_gradient(x, t, w):
    """Mean squared error of X Wᵀ against X Tᵀ, and its gradient, in float64."""
    loss, sums = 0.0, [0.0] * (OUT * IN)
    for s in range(SAMPLES):
        for o in range(OUT):
            error = 0.0
            for i in range(IN):
                error += x[s * IN + i] * (w[o * IN + i] - t[o * IN + i])
            loss += error * error
            for i in range(IN):
                sums[o * IN + i] += error * x[s * IN + i]
    return loss / (SAMPLES * OUT), [v * (2.0 / (SAMPLES * OUT)) for v in sums]


def regression(session):
    optimizer = session.optimizer("galore:rank=4,update_proj_gap=10,scale=1")
    optimizer.bind([tenon.Param((OUT, IN), role="q", uid=1, name="w")])
    x, t = fill(SAMPLES * IN, 1), fill(OUT * IN, 2)
    weight, gradient = tensor(session, (OUT, IN), fill(OUT * IN, 3)).numpy(), session.tensor((OUT, IN), category="gradients").numpy()
    first, g = loss_and_gradient(x, t, weight.ravel().tolist())
    for _ in range(STEPS):
        gradient.ravel()[:] = g
        optimizer.step([weight], [gradient], lr=0.05, seed=7)
        last, g = loss_and_gradient(x, t, weight.ravel().tolist())
    print(f"galore: loss {first:.6f}, after {STEPS} steps {last:.6f}, digest {digest(weight.tobytes())}")


def codec(session):
    matrix = tensor(session, (64, 128), fill(64 * 128, 11)).numpy()
    nf4 = session.quantizer("nf4")
    coded = nf4.encode(matrix, name="matrix", seed=1)
    back = nf4.decode(coded)
    worst = abs(back.astype("float64") - matrix.astype("float64")).max()
    print(f"nf4: {coded.nbytes} bytes, worst error {worst:.6f}, digest {digest(back.tobytes())}")


def attention(session):
    flash = session.attention("flash-attention", heads=4, kv_heads=2, head_size=16)
    q = tensor(session, (1, 16, 4, 16), fill(16 * 4 * 16, 21)).numpy()
    k, v = (tensor(session, (1, 16, 2, 16), fill(16 * 2 * 16, seed)).numpy() for seed in (22, 23))
    print(f"attention: digest {digest(flash.forward(q, k, v).tobytes())}")


def training(store, folder):
    data = pathlib.Path(folder, "data.txt")
    data.write_text("".join(f"The joiner cut tenon {i} to fit mortise {i * 7 % 60}.\n" for i in range(60)), encoding="utf-8")
    recipe = {"model": "preset:9m", "data": str(data), "output": str(data.parent / "out"), "device": "onednn", "adapter": "lora:r=4", "quantizer": "nf4",
              "optimizer": "galore:rank=4", "seq-len": 32, "batch-size": 2, "steps": 5, "lr": 0.01, "schedule": "constant", "seed": 3}
    losses = []
    with tenon.Trainer(recipe, store) as trainer:
        trainer.run(on_step=lambda step: losses.append(step.loss))
    print(f"train: {len(losses)} steps, loss {losses[-1]:.6f}, digest {digest(struct.pack(f'<{len(losses)}d', *losses))}")


def main(store, folder):
    context = tenon.Context(store)
    print("catalog:", ", ".join(p["id"] for p in context.plugins()))
    mix = context.check(optimizer="galore:rank=4", adapters=["lora:r=4"], quantizer="nf4", attention="flash-attention")
    why_not = context.check(optimizer="galore:rank=4", tags=["device:abacus"])["reasons"][0]["sentence"]
    print(f"mix: {'possible' if mix['possible'] else 'not possible'}; {why_not}")
    session = context.session("onednn")
    regression(session)
    codec(session)
    attention(session)
    training(store, folder)


if __name__ == "__main__":
    main(*sys.argv[1:])
