# What a session still has to free. A finalizer of the object only sets `forgotten`: the session looks at its next call.
mutable struct Owned
    address::Ptr{Cvoid}
    order::Int  # lower goes first
    free::Function
    forgotten::Bool
end

"""
    Session(context, device = "auto"; memory_limit = 0)

An opened device ("auto", "onednn", "cuda", "hip", "cuda:1") with counted memory; the limit is in bytes, 0 = none. Calls on a session take turns,
sessions run in parallel. `close` frees everything that was made on it.
"""
mutable struct Session
    raw::Ptr{tn_session}
    context::Context
    lock::ReentrantLock
    owned::Vector{Owned}
    function Session(context::Context, device::AbstractString = "auto"; memory_limit::Integer = 0)
        0 <= memory_limit <= typemax(UInt64) || refuse(:argument, "the memory limit $memory_limit is not a number of bytes")
        out = Ref{Ptr{tn_session}}(C_NULL)
        in_turn(context) do raw
            check(tn_session_open(raw, device, memory_limit, out))
            context.sessions += 1
        end
        finalizer(free!, new(out[], context, ReentrantLock(), Owned[]))
    end
end

function free!(s::Session)
    s.raw == C_NULL && return
    for record in sort(s.owned; by = r -> r.order)
        record.free(record.address)
        record.address = C_NULL
    end
    empty!(s.owned)
    tn_session_close(s.raw)
    s.raw = C_NULL
    s.context.sessions -= 1
    s.context.forgotten && s.context.sessions == 0 && isopen(s.context) && free!(s.context)
    nothing
end

Base.isopen(s::Session) = s.raw != C_NULL
Base.close(s::Session) = lock(() -> free!(s), s.lock)

function sweep!(s::Session)
    any(r -> r.forgotten, s.owned) || return
    for record in sort(filter(r -> r.forgotten, s.owned); by = r -> r.order)
        record.free(record.address)
        record.address = C_NULL
    end
    filter!(r -> r.address != C_NULL, s.owned)
end

function in_turn(f, s::Session)
    lock(s.lock) do
        isopen(s) || refuse(:state, "the session is closed; open a new one")
        sweep!(s)
        GC.@preserve s f(s.raw)
    end
end

"Of the device and memory: backend, name, arch, total_bytes, live_bytes, peak_bytes, categories, …"
info(s::Session) = parse_json(in_turn(raw -> take(out -> tn_session_info(raw, out), check), s))
Base.wait(s::Session) = in_turn(raw -> check(tn_session_wait(raw)), s)

"What was made on a session."
abstract type Child end

function own!(child::Child, session::Session, address, order, free)
    record = Owned(Ptr{Cvoid}(address), order, free, false)
    push!(session.owned, record)
    child.record = record
    finalizer(c -> (c.record.forgotten = true; nothing), child)
end

Base.isopen(child::Child) = child.record.address != C_NULL
what(child::Child) = lowercase(String(nameof(typeof(child))))
function Base.close(child::Child)
    lock(child.session.lock) do
        isopen(child) || return
        child.record.free(child.record.address)
        child.record.address = C_NULL
        filter!(r -> r !== child.record, child.session.owned)
    end
    nothing
end

"f(session, address) on an open child, in the session's turn."
function in_turn(f, child::Child)
    in_turn(child.session) do raw
        isopen(child) || refuse(:state, "the $(what(child)) is closed; make a new one")
        GC.@preserve child f(raw, child.record.address)
    end
end

const CATEGORIES = Dict(:weights => TN_MEMORY_WEIGHTS, :gradients => TN_MEMORY_GRADIENTS, :optimizer_state => TN_MEMORY_OPTIMIZER_STATE,
                        :adapter => TN_MEMORY_ADAPTER, :activations => TN_MEMORY_ACTIVATIONS, :workspace => TN_MEMORY_WORKSPACE, :codec => TN_MEMORY_CODEC)

"""
    Tensor{T}(session, dims...; category = :weights)

Zeros in the session's counted memory, `dims` as of a Julia array. `copyto!` moves numbers in and out; `with_array(f, tensor)` shows them
in place (host memory only).
"""
mutable struct Tensor{T,N} <: Child
    session::Session
    dims::NTuple{N,Int}
    record::Owned
    function Tensor{T}(session::Session, dims::Integer...; category::Symbol = :weights) where {T}
        haskey(CATEGORIES, category) || refuse(:argument, "the memory category $(repr(category)) is not one of $(join(map(repr, sort!(collect(keys(CATEGORIES)))), ", "))")
        tensor = new{T,length(dims)}(session, Int.(dims))
        shape, dtype = collect(Int64, reverse(dims)), Ref(dtype_of(T))
        in_turn(session) do raw
            out = Ref{Ptr{tn_tensor}}(C_NULL)
            check(tn_tensor_alloc(raw, CATEGORIES[category], dtype, length(dims), shape, out))
            own!(tensor, session, out[], 3, address -> tn_tensor_free(raw, Ptr{tn_tensor}(address)))
        end
        tensor
    end
end

Base.size(t::Tensor) = t.dims
Base.length(t::Tensor) = prod(t.dims)
Base.eltype(::Type{<:Tensor{T}}) where {T} = T
what(::Tensor) = "tensor"

function same_size(t::Tensor, a)
    size(a) == size(t) || refuse(:argument, "an array of size $(size(a)) does not fit a tensor of size $(size(t))")
end

function Base.copyto!(t::Tensor{T}, a::Array{T}) where {T}
    same_size(t, a)
    GC.@preserve a in_turn((raw, address) -> check(tn_tensor_write(raw, address, pointer(a), sizeof(a))), t)
    t
end
function Base.copyto!(a::Array{T}, t::Tensor{T}) where {T}
    same_size(t, a)
    GC.@preserve a in_turn((raw, address) -> check(tn_tensor_read(raw, address, pointer(a), sizeof(a))), t)
    a
end
Base.copyto!(t::Tensor, a::Array) = refuse(:argument, "an array of $(eltype(a)) does not fit a tensor of $(eltype(t))")
Base.copyto!(a::Array, t::Tensor) = refuse(:argument, "an array of $(eltype(a)) does not fit a tensor of $(eltype(t))")

"f(array) over the tensor's own memory, which must not be kept."
function with_array(f, t::Tensor{T}) where {T}
    in_turn(t) do _, address
        raw = unsafe_load(Ptr{tn_tensor}(address))
        raw.device.type_ == TN_CPU || refuse(:unsupported, "the tensor is not in host memory; use copyto!")
        f(unsafe_wrap(Array, Ptr{T}(raw.data), t.dims))
    end
end
