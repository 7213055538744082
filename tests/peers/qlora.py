"""QLoRA of SmolLM2-135M: NF4 base with double quantization, LoRA r = 16 on all linears, AdamW: torch + peft + bitsandbytes."""
import harness
import training
from torch_side import dtype_of

TITLE = "QLoRA (NF4), SmolLM2 4 × 256"


class QLora(training.Lora):
    packages = ("torch", "transformers", "peft", "bitsandbytes")

    def quantize(self, model, case):
        import bitsandbytes as bnb
        import torch
        for parent in list(model.modules()):
            for name, child in list(parent.named_children()):
                if isinstance(child, torch.nn.Linear) and name != "lm_head":
                    layer = bnb.nn.Linear4bit(child.in_features, child.out_features, bias=False, compute_dtype=dtype_of(case.dtype), quant_type="nf4",
                                              compress_statistics=True)
                    layer.weight = bnb.nn.Params4bit(child.weight.data, requires_grad=False, quant_type="nf4", compress_statistics=True)
                    layer.weight = layer.weight._quantize("cpu")
                    setattr(parent, name, layer)
        return model


if __name__ == "__main__":
    harness.main(__doc__ + training.__doc__, {"torch + peft + bitsandbytes": QLora, "tenon": training.TenonTraining},
                 training.cases(TITLE, 4, 2.2, 0.2, 0.65, {"quantizer": "nf4:double_quant=true"},
                                lean={"f32": training.recomputing(19), "bf16": training.recomputing(4)}), after=training.fastest(TITLE, 2.2))
