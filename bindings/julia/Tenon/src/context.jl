"""
    Context(stores...)

The plugins of some stores (folders) in order of precedence; none: the user's store, then the one that came with the library. `close` it, or
leave that to the garbage collector.
"""
mutable struct Context
    raw::Ptr{tn_context}
    lock::ReentrantLock
    sessions::Int
    forgotten::Bool
    function Context(stores::AbstractString...)
        list, kept = texts(stores)
        out = Ref{Ptr{tn_context}}(C_NULL)
        GC.@preserve kept check(tn_context_open(list, length(list), out))
        finalizer(forget!, new(out[], ReentrantLock(), 0, false))
    end
end

# A finalizer may run in the middle of any other call, so it frees only what nothing refers to any more: a context at once, unless sessions
# are still to be finalized; the last of those closes it.
function forget!(c::Context)
    c.forgotten = true
    c.sessions == 0 && free!(c)
end
function free!(c::Context)
    tn_context_close(c.raw)
    c.raw = C_NULL
end

Base.isopen(c::Context) = c.raw != C_NULL
function Base.close(c::Context)
    lock(c.lock) do
        c.sessions == 0 || refuse(:state, "$(c.sessions) sessions of this context are open; close them first")
        isopen(c) && free!(c)
    end
    nothing
end

function in_turn(f, c::Context)
    lock(c.lock) do
        isopen(c) || refuse(:state, "the context is closed; open a new one")
        GC.@preserve c f(c.raw)
    end
end

ask(f, c::Context) = parse_json(in_turn(raw -> take(out -> f(raw, out), check), c))

"All plugins, or those of a kind (\"optimizer\", …): Dicts with id, kind, version, name, summary, backends and store."
plugins(c::Context) = ask((raw, out) -> tn_plugin_list(raw, Cstring(C_NULL), out), c)
plugins(c::Context, kind::AbstractString) = ask((raw, out) -> tn_plugin_list(raw, kind, out), c)

"The manifest of a plugin, with the schema of its hyper-parameters."
info(c::Context, plugin::AbstractString) = ask((raw, out) -> tn_plugin_info(raw, plugin, out), c)

install(c::Context, folder::AbstractString) = ask((raw, out) -> tn_plugin_install(raw, folder, out), c)
remove(c::Context, plugin::AbstractString) = in_turn(raw -> check(tn_plugin_remove(raw, plugin)), c)

const KINDS = Dict(:optimizer => TN_KIND_OPTIMIZER, :adapter => TN_KIND_ADAPTER, :quantizer => TN_KIND_QUANTIZER, :attention => TN_KIND_ATTENTION)

"""
    mix(context, :optimizer => "galore:rank=128", :adapter => "lora"; tags = [])

Whether these work together: a Dict with possible, reasons (of plugin and sentence) and techniques (specs with every value).
"""
function mix(c::Context, techniques::Pair{Symbol,<:AbstractString}...; tags = String[])
    for (kind, _) in techniques
        haskey(KINDS, kind) || refuse(:argument, "$(repr(kind)) is not one of $(join(map(repr, sort!(collect(keys(KINDS)))), ", "))")
    end
    kinds = UInt32[KINDS[kind] for (kind, _) in techniques]
    specs, kept = texts(last.(techniques))
    run_tags, also = texts(tags)
    GC.@preserve kept also ask((raw, out) -> tn_check(raw, kinds, specs, length(specs), run_tags, length(run_tags), out), c)
end
