"What a recipe may say: Dicts with name, default, switch, repeats and doc."
recipe_keys() = parse_json(take(tn_trainer_recipe_keys, check_trainer))

"""
    Trainer(recipe; stores = [])

A recipe, checked: a Dict of the flags of `tenon train` without dashes, for example
`Dict("model" => "preset:9m", "data" => "book.txt", "output" => "out", "optimizer" => "galore:rank=64", "steps" => 100)`.
"""
mutable struct Trainer
    raw::Ptr{tn_trainer}
    busy::Threads.Atomic{Bool}
    function Trainer(recipe; stores = String[])
        words = recipe isa AbstractString ? recipe : sprint(write_json, recipe)
        list, kept = texts(stores)
        out = Ref{Ptr{tn_trainer}}(C_NULL)
        GC.@preserve kept check_trainer(tn_trainer_create(list, length(list), words, out))
        finalizer(free!, new(out[], Threads.Atomic{Bool}(false)))
    end
end

function free!(t::Trainer)
    tn_trainer_destroy(t.raw)
    t.raw = C_NULL
end

Base.isopen(t::Trainer) = t.raw != C_NULL
function Base.close(t::Trainer)
    t.busy[] && refuse(:state, "the trainer is running; stop it and wait before closing it")
    free!(t)
    nothing
end

function in_turn(f, t::Trainer)
    Threads.atomic_xchg!(t.busy, true) && refuse(:state, "this trainer is in a call already; wait for it, or make another trainer")
    try
        isopen(t) || refuse(:state, "the trainer is closed; make a new one")
        GC.@preserve t parse_json(take(out -> f(t.raw, out), check_trainer))
    finally
        t.busy[] = false
    end
end

"Bytes by category before the run, whether they fit \"memory-limit\", and what would fit."
plan(t::Trainer) = in_turn(tn_trainer_plan, t)

mutable struct Told
    trainer::Trainer
    step::Any
    evaluated::Any
    note::Any
    failure::Any
end

# Nothing may be thrown through C: the run ends first.
function guarded(f, told::Told)
    try
        f()
    catch e
        told.failure === nothing && (told.failure = (e, catch_backtrace()))
        stop!(told.trainer)
        false
    end
end

function on_step(self::Ptr{Cvoid}, pointer::Ptr{tn_trainer_step})::Int32
    told, s = unsafe_pointer_to_objref(self)::Told, unsafe_load(pointer)
    step = (step = s.step, total_steps = s.total_steps, tokens = s.tokens, loss = s.loss, lr = s.lr, grad_norm = s.grad_norm,
            tokens_per_second = s.tokens_per_second, live_bytes = s.live_bytes, peak_bytes = s.peak_bytes, skipped = s.flags & TN_TRAINER_SKIPPED != 0,
            degraded = s.flags & TN_TRAINER_DEGRADED != 0)
    guarded(() -> told.step(step), told) === false ? 1 : 0
end
function on_evaluated(self::Ptr{Cvoid}, step::Int64, loss::Float64, perplexity::Float64)::Cvoid
    told = unsafe_pointer_to_objref(self)::Told
    guarded(() -> told.evaluated(step, loss, perplexity), told)
    nothing
end
function on_note(self::Ptr{Cvoid}, sentence::Ptr{UInt8})::Cvoid
    told = unsafe_pointer_to_objref(self)::Told
    guarded(() -> told.note(unsafe_string(sentence)), told)
    nothing
end

"""
    run!(trainer; on_step, on_evaluated, on_note)

Trains to the end or until stopped, and answers a Dict: steps, loss, evaluations, stopped, final, peak_bytes, … `on_step(step)` gets a named
tuple (step, loss, lr, tokens, …) and ends the run, with a checkpoint, by answering `false` or throwing; what a callback throws is thrown here.
`on_evaluated(step, loss, perplexity)`, `on_note(sentence)`.
"""
function run!(t::Trainer; on_step = nothing, on_evaluated = nothing, on_note = nothing)
    told = Told(t, on_step, on_evaluated, on_note, nothing)
    result = GC.@preserve told begin
        events = Ref(tn_trainer_events(struct_size(tn_trainer_events), 0, pointer_from_objref(told), on_step === nothing ? C_NULL : step_pointer(),
                                       on_evaluated === nothing ? C_NULL : evaluated_pointer(), on_note === nothing ? C_NULL : note_pointer()))
        in_turn((raw, out) -> tn_trainer_run(raw, events, out), t)
    end
    told.failure === nothing || throw(first(told.failure))
    result
end

step_pointer() = @cfunction(on_step, Int32, (Ptr{Cvoid}, Ptr{tn_trainer_step}))
evaluated_pointer() = @cfunction(on_evaluated, Cvoid, (Ptr{Cvoid}, Int64, Float64, Float64))
note_pointer() = @cfunction(on_note, Cvoid, (Ptr{Cvoid}, Ptr{UInt8}))

"Ends the run in progress, or the next one, after the step that it is in. From any thread."
stop!(t::Trainer) = (tn_trainer_stop(t.raw); nothing)
