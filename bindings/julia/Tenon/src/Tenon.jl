"""
Memory-efficient LLM training techniques as plugins, from Julia.

A `Context` knows what is installed and what mixes; a `Session` is an opened device with counted memory; an `Optimizer`, a `Quantizer` and an
`Attention` are made on a session and work on arrays in place. A `Trainer` runs whole training sessions from a recipe.

Tenon's tensors are row-major, Julia's arrays column-major. An array is handed over as it lies in memory, so its axes are read backwards: a
Julia array of size `(n, m)` is the tensor `[m, n]`. A linear's weight `[out, in]` is a Julia matrix of size `(in, out)`, and the tensors
`[batch, tokens, heads, head size]` of attention are arrays of size `(head size, heads, tokens, batch)`. `TensorView` shows both sides.
"""
module Tenon

using Libdl

export Attention, BFloat16, Context, Optimizer, Param, Quantizer, Session, Tensor, TensorView, TenonError, Trainer
export components, decode, decode!, encode, forward!, info, load!, mix, nbytes, plan, plugins, recipe_keys, run!, save, spec, state_bytes, step!, steps,
    stop!, with_array

include("ffi.jl")
include("errors.jl")
include("json.jl")
include("views.jl")
include("context.jl")
include("session.jl")
include("techniques.jl")
include("trainer.jl")

function __init__()
    folder = get(ENV, "TENON_LIBRARY_PATH", "")
    for (i, name) in enumerate(NAMES)
        file = "lib$(LIBRARY_OF[i]).so.0"
        # Not Libdl's default RTLD_DEEPBIND: it would give these libraries another unwinder than the C++ library that Julia has loaded, and
        # an exception that meets two unwinders ends the process.
        handle = Libdl.dlopen(isempty(folder) ? file : joinpath(folder, file), Libdl.RTLD_LAZY | Libdl.RTLD_LOCAL; throw_error = false)
        handle === nothing && error("$file was not found; install Tenon or set TENON_LIBRARY_PATH to the folder that holds it")
        FUNCTIONS[i] = Libdl.dlsym(handle, name)
    end
end

end
