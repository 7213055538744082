"""bitsandbytes' NF4 codec on the CPU: block 64, one layer of 2048 x 5632, elements a second."""
import bitsandbytes as bnb
import bitsandbytes.functional as F
import torch

import peer

args = peer.parser(__doc__).parse_args()
torch.set_num_threads(args.threads)
torch.manual_seed(1)
shape = (256, 704) if args.quick else (2048, 5632)
weight = torch.randn(shape)
half = weight.bfloat16()
packed, state = F.quantize_4bit(weight, blocksize=64, quant_type="nf4")
packed_half, state_half = F.quantize_4bit(half, blocksize=64, quant_type="nf4")
actions = {
    "encode_f32": lambda: F.quantize_4bit(weight, blocksize=64, quant_type="nf4"),
    "encode_double_f32": lambda: F.quantize_4bit(weight, blocksize=64, quant_type="nf4", compress_statistics=True),
    "decode_f32": lambda: F.dequantize_4bit(packed, state),
    "decode_bf16": lambda: F.dequantize_4bit(packed_half, state_half),
}
seconds = peer.interleaved(actions, 2 if args.quick else args.repeat)
figures = {f"{k}_elements_per_second": weight.numel() / t for k, t in seconds.items()}
peer.report("nf4", figures, {"bitsandbytes": bnb.__version__, "torch": torch.__version__}, args, shape=shape)
