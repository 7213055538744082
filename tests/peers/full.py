"""Every weight of SmolLM2-135M, AdamW: torch, fused optimizer. In bf16 both sides keep weights in bf16 and round to nearest, as torch does; Tenon's
default there, stochastic rounding, is another rule. torch's states are bf16 too; Tenon's are f32, but in the lean row."""
import harness
import training
from torch_side import dtype_of

TITLE = "full fine-tune, SmolLM2 4 × 256"
FUSED = {**training.recomputing(24), "fused-backward": True}
BF16_STATES = {"optimizer": "adamw:weight_decay=0.01,eps=1e-8,state_dtype=bf16", "loss-tile": "32MiB"}


class Full(training.TorchTraining):
    def shape(self, model, case):
        return model.to(dtype_of(case.dtype))


if __name__ == "__main__":
    harness.main(__doc__ + training.__doc__, {"torch": Full, "tenon": training.TenonTraining}, training.cases(TITLE, 6, 1.5, 0.45, 0.7, {"weight-update": "nearest"}, 2e-5, {"f32": FUSED, "bf16": BF16_STATES}),
                 after=training.fastest(TITLE, 1.5))
