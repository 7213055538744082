const ROLES = Dict(:embedding => TN_ROLE_EMBEDDING, :head => TN_ROLE_HEAD, :norm => TN_ROLE_NORM, :bias => TN_ROLE_BIAS, :q => TN_ROLE_Q, :k => TN_ROLE_K,
                   :v => TN_ROLE_V, :o => TN_ROLE_O, :gate => TN_ROLE_GATE, :up => TN_ROLE_UP, :down => TN_ROLE_DOWN, :other => TN_ROLE_OTHER)

function role_of(role::Symbol)
    haskey(ROLES, role) || refuse(:argument, "the role $(repr(role)) is not one of $(join(map(repr, sort!(collect(keys(ROLES)))), ", "))")
    ROLES[role]
end

pad4(shape) = ntuple(i -> i <= length(shape) ? Int64(shape[i]) : Int64(0), 4)

abstract type Technique <: Child end

"The canonical spec of a technique, with every value."
spec(t::Technique) = in_turn((_, address) -> take(out -> tn_technique_spec(address, out), check), t)

function create!(technique::Technique, session::Session, make)
    in_turn(session) do raw
        out = Ref{Ptr{tn_technique}}(C_NULL)
        check(make(raw, out))
        own!(technique, session, out[], 2, tn_technique_destroy)
    end
    technique
end

"""
    Param(array; role = :other, uid, name = "")

A parameter for an `Optimizer`, of the array's size and type. `uid` is its number in random streams and states, the same in every run.
"""
struct Param
    view_shape::Vector{Int64}  # the tensor's: the array's dims backwards
    dtype::tn_dtype
    role::Int32
    uid::Union{Nothing,Int}
    name::String
end
function Param(array; role::Symbol = :other, uid::Union{Nothing,Integer} = nothing, name::AbstractString = "")
    view = TensorView(array)
    Param(view.shape, view.raw.dtype, role_of(role), uid, name)
end

"""
    Optimizer(session, spec, params)

An instance for all these parameters (`Param`s or arrays); its states are allocated. `step!` it.
"""
mutable struct Optimizer <: Technique
    session::Session
    n::Int
    record::Owned
    function Optimizer(session::Session, spec::AbstractString, params)
        params = Param[p isa Param ? p : Param(p) for p in params]
        optimizer = create!(new(session, length(params)), session, (raw, out) -> tn_technique_create(raw, TN_KIND_OPTIMIZER, spec, out))
        try
            bind!(optimizer, params)
        catch
            close(optimizer)
            rethrow()
        end
        optimizer
    end
end

function bind!(optimizer, params)
    names = [Base.cconvert(Cstring, isempty(p.name) ? "parameter $i" : p.name) for (i, p) in enumerate(params)]
    structs = [Ref(tn_param(struct_size(tn_param), UInt32(p.uid === nothing ? i - 1 : p.uid), p.role, TN_REPR_DENSE, -1, -1, 0, 0, p.dtype, length(p.view_shape),
                            length(p.view_shape) == 2 ? 1 : -1, 0, pad4(p.view_shape), Ptr{UInt8}(Base.unsafe_convert(Cstring, names[i]))))
               for (i, p) in enumerate(params)]
    GC.@preserve names structs begin
        list = Ptr{tn_param}[Base.unsafe_convert(Ptr{tn_param}, s) for s in structs]
        in_turn((_, address) -> check(tn_optimizer_bind(address, list, length(list))), optimizer)
    end
end

"""
    step!(optimizer, params, grads; lr, seed = 0, total_steps = 0, tokens = 0, grad_scale = 1)

Updates `params` in place from `grads` (`nothing`: no gradient in this step), in the order in which they were bound.
"""
function step!(optimizer::Optimizer, params, grads; lr::Real, seed::Integer = 0, total_steps::Integer = 0, tokens::Integer = 0, grad_scale::Real = 1)
    length(params) == length(grads) == optimizer.n ||
        refuse(:argument, "$(length(params)) parameters and $(length(grads)) gradients were given for the $(optimizer.n) that are bound")
    ours = [TensorView(p; write = true) for p in params]
    theirs = [g === nothing ? nothing : TensorView(g) for g in grads]
    values, gradients = [Ref(v.raw) for v in ours], [g === nothing ? nothing : Ref(g.raw) for g in theirs]
    update = Ref(tn_update(struct_size(tn_update), 0, total_steps, tokens, seed, lr, grad_scale))
    GC.@preserve ours theirs values gradients begin
        left = Ptr{tn_tensor}[Base.unsafe_convert(Ptr{tn_tensor}, v) for v in values]
        right = Ptr{tn_tensor}[g === nothing ? C_NULL : Base.unsafe_convert(Ptr{tn_tensor}, g) for g in gradients]
        in_turn((_, address) -> check(tn_optimizer_step(address, update, left, right)), optimizer)
    end
    params
end

"Steps done."
steps(optimizer::Optimizer) = Int(in_turn((_, address) -> tn_optimizer_steps(address), optimizer))
"Bytes of all states."
state_bytes(optimizer::Optimizer) = Int(in_turn((_, address) -> tn_optimizer_state_bytes(address), optimizer))

function write_sink(self::Ptr{Cvoid}, bytes::Ptr{Cvoid}, n::UInt64)::Int32
    try
        append!(unsafe_pointer_to_objref(self)::Vector{UInt8}, unsafe_wrap(Array, Ptr{UInt8}(bytes), n))
        TN_OK
    catch
        TN_E_MEMORY
    end
end

"All states as bytes, which name plugin, version and layout; `load!` takes them back."
function save(optimizer::Optimizer)
    states = UInt8[]
    write = @cfunction(write_sink, Int32, (Ptr{Cvoid}, Ptr{Cvoid}, UInt64))
    GC.@preserve states begin
        sink = Ref(tn_sink(struct_size(tn_sink), 0, pointer_from_objref(states), write))
        in_turn((_, address) -> check(tn_optimizer_save(address, sink)), optimizer)
    end
    states
end
load!(optimizer::Optimizer, states::Vector{UInt8}) =
    GC.@preserve states in_turn((_, address) -> check(tn_optimizer_load(address, pointer(states), length(states))), optimizer)

"    Quantizer(session, spec)"
mutable struct Quantizer <: Technique
    session::Session
    record::Owned
    Quantizer(session::Session, spec::AbstractString) =
        create!(new(session), session, (raw, out) -> tn_technique_create(raw, TN_KIND_QUANTIZER, spec, out))
end

"An array as a quantizer holds it."
mutable struct Coded{T,N} <: Child
    session::Session
    quantizer::Quantizer
    dims::NTuple{N,Int}
    record::Owned
    Coded{T}(quantizer, dims::NTuple{N,Int}) where {T,N} = new{T,N}(quantizer.session, quantizer, dims)
end
what(::Coded) = "coded array"
Base.length(coded::Coded) = prod(coded.dims)
Base.size(coded::Coded) = coded.dims

"    encode(quantizer, array; role = :other, name = \"\", seed = 0): codes an array of Float32, BFloat16 or Float16."
function encode(quantizer::Quantizer, array; role::Symbol = :other, name::AbstractString = "", seed::Integer = 0)
    view = TensorView(array)
    label = Base.cconvert(Cstring, String(name))
    coded = Coded{eltype(array)}(quantizer, size(array))
    GC.@preserve view label in_turn(quantizer) do _, address
        target = Ref(tn_target(struct_size(tn_target), TN_SITE_WEIGHT, role_of(role), 0, -1, length(view.shape), view.raw.dtype, 0, pad4(view.shape),
                               Ptr{UInt8}(Base.unsafe_convert(Cstring, label))))
        out = Ref{Ptr{tn_coded}}(C_NULL)
        check(tn_quantizer_encode(address, target, Ref(view.raw), seed, out))
        own!(coded, quantizer.session, out[], 1, tn_coded_free)
    end
    coded
end

"    decode!(out, coded, range = all): elements of this range (from 1) in the order in which they lie in memory."
function decode!(out, coded::Coded, range::AbstractUnitRange{<:Integer} = 1:length(coded))
    view = TensorView(out; write = true)
    GC.@preserve view in_turn(coded) do _, address
        isopen(coded.quantizer) || refuse(:state, "the quantizer is closed; make a new one and encode again")
        check(tn_quantizer_decode(coded.quantizer.record.address, address, first(range) - 1, last(range), Ref(view.raw)))
    end
    out
end
decode(coded::Coded{T}) where {T} = decode!(Array{T}(undef, coded.dims), coded)
decode(coded::Coded{T}, range::AbstractUnitRange{<:Integer}) where {T} = decode!(Vector{T}(undef, length(range)), coded, range)

"Bytes of all components."
nbytes(coded::Coded) = Int(in_turn((_, address) -> tn_coded_bytes(address), coded))

"Names of the components."
function components(coded::Coded)
    in_turn(coded) do _, address
        names, component = String[], Ref{Ptr{tn_component}}(C_NULL)
        while tn_coded_component(address, length(names), component, C_NULL) == TN_OK
            push!(names, text(unsafe_load(component[]).name))
        end
        names
    end
end

"""
    Attention(session, spec; heads, kv_heads = heads, head_size, value_size = head_size, scale = 0, softcap = 0)

One layer; scale 0 = 1/sqrt(head_size), softcap 0 = off.
"""
mutable struct Attention <: Technique
    session::Session
    record::Owned
    function Attention(session::Session, spec::AbstractString; heads::Integer, head_size::Integer, kv_heads::Integer = heads, value_size::Integer = head_size,
                       scale::Real = 0, softcap::Real = 0)
        config = Ref(tn_attention_config(struct_size(tn_attention_config), heads, kv_heads, head_size, value_size, 0, 1, 0, heads, 0, scale, softcap))
        create!(new(session), session, (raw, out) -> tn_attention_create(raw, spec, config, out))
    end
end

"""
    forward!(out, attention, q, k, v; window = 0, lse = nothing)

Causal attention. q, k, v and out are arrays of size `(head size, heads, tokens, batch)` of one type, lse of Float32 `(tokens, heads, batch)`.
window > 0: only the last `window` keys.
"""
function forward!(out, attention::Attention, q, k, v; window::Integer = 0, lse = nothing)
    views = (TensorView(q), TensorView(k), TensorView(v), TensorView(out; write = true))
    statistics = lse === nothing ? nothing : TensorView(lse; write = true)
    GC.@preserve views statistics in_turn(attention) do _, address
        tq, tk, tv, to = map(view -> Ref(view.raw), views)
        check(tn_attention_forward(address, tq, tk, tv, window, to, statistics === nothing ? C_NULL : Ref(statistics.raw)))
    end
    out
end
