"""LoRA of SmolLM2-135M, r = 16 on all linears, AdamW: torch + peft."""
import harness
import training

TITLE = "LoRA, SmolLM2 4 × 256"

if __name__ == "__main__":
    harness.main(__doc__ + training.__doc__, {"torch + peft": training.Lora, "tenon": training.TenonTraining}, training.cases(TITLE, 4, 1.8, 0.2, 0.7, lean={"f32": training.recomputing(30), "bf16": training.recomputing(15)}),
                 after=training.fastest(TITLE, 1.8))
