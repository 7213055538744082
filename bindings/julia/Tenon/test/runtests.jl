# The package on the plugins of the build tree: what works, and what wrong use gets.
using Mmap
using Tenon
using Test

const STORE = ENV["TENON_TEST_STORE"]

wave(dims...) = reshape(Float32[sin(0.37f0 * i) for i in 0:prod(dims)-1], dims)

"Whether f throws a TenonError of this status whose sentence contains the words."
function refused(f, status, words)
    try
        f()
    catch e
        e isa TenonError || rethrow()
        e.status === status && occursin(words, e.sentence) && return true
        @error "another refusal" e.status e.sentence status words
        return false
    end
    @error "not refused" status words
    false
end

include("layout.jl")

context = Context(STORE)
session = Session(context, "onednn"; memory_limit = 1 << 30)

@testset "catalog" begin
    @test Tenon.version() == v"0.9.0"
    @test Tenon.abi_version() == (0, 9)
    @test "galore" in [p["id"] for p in plugins(context, "optimizer")]
    @test occursin("update_proj_gap", string(info(context, "galore")))
    @test mix(context, :optimizer => "adamw", :adapter => "lora", :quantizer => "nf4")["possible"]
    @test !mix(context, :optimizer => "adamw", :quantizer => "nf4")["possible"]
    @test refused(() -> info(context, "galor"), :not_found, "did you mean 'galore'")
    @test refused(() -> plugins(context, "optimiser"), :argument, "is not a kind")
    @test refused(() -> mix(context, :optimizer => "adamw:beta2=1.5"), :argument, "beta2=1.5")
    @test refused(() -> mix(context, :optimiser => "adamw"), :argument, ":optimiser")
    @test refused(() -> Session(context, "abacus"), :not_found, "abacus")
    @test refused(() -> Session(context, "onednn"; memory_limit = -1), :argument, "memory limit")
    @test_throws ArgumentError info(context, "a\0b")
end

@testset "views" begin
    a = wave(3, 5)
    @test (size(TensorView(a)), strides(TensorView(a))) == ((5, 3), (3, 1))
    @test (size(TensorView(a; axes = :same)), strides(TensorView(a; axes = :same))) == ((3, 5), (1, 3))
    @test (size(TensorView(view(a, 1:2, :))), strides(TensorView(view(a, 1:2, :)))) == ((5, 2), (3, 1))
    @test TensorView(a).raw.data == pointer(a)
    @test refused(() -> TensorView(1:3), :argument, "no memory of its own")
    @test refused(() -> TensorView(wave(2, 2)'), :argument, "no memory of its own")
    @test refused(() -> TensorView(ComplexF32[1]), :argument, "Complex")
    @test refused(() -> TensorView(codeunits("text"); write = true), :argument, "read-only")
    @test refused(() -> TensorView(wave(1, 1, 1, 1, 1)), :argument, "dimensions")
    @test refused(() -> TensorView(a; axes = :sideways), :argument, "sideways")
    @test Float32(BFloat16(1.5)) == 1.5f0
end

@testset "optimizers" begin
    function run(w, first, n, states)
        adamw = Optimizer(session, "adamw", [w])
        states === nothing || load!(adamw, states)
        for i in first:first+n-1
            step!(adamw, [w], [wave(5, 3) .* Float32(1 + i)]; lr = 0.1)
        end
        @test (steps(adamw), state_bytes(adamw)) == (first + n, 120)
        save(adamw)
    end
    whole, parts = wave(5, 3), wave(5, 3)
    states = run(whole, 0, 5, nothing)
    @test run(parts, 2, 3, run(parts, 0, 2, nothing)) == states
    @test whole == parts
    sgd = Optimizer(session, "sgd", [whole, wave(4)])
    @test refused(() -> load!(sgd, states), :conflict, "states of adamw, not of sgd")
    @test refused(() -> load!(sgd, Vector{UInt8}("nonsense, and more of it")), :format, "not the states")
    a, b = wave(5, 3), wave(4)
    step!(sgd, [a, b], [nothing, ones(Float32, 4)]; lr = 0.5)
    @test a == wave(5, 3)
    @test b ≈ wave(4) .- 0.5f0
end

@testset "wrong arrays" begin
    w, g = wave(6, 4), wave(6, 4)
    adamw = Optimizer(session, "adamw", [Param(w; role = :q)])
    go(p, d) = () -> step!(adamw, [p], [d]; lr = 0.1)
    bytes = zeros(UInt8, 200)
    base = TensorView(w)
    odd = Tenon.tn_tensor(Ptr{Cvoid}(pointer(bytes) + 1), base.raw.device, base.raw.ndim, base.raw.dtype, base.raw.shape, base.raw.strides, 0)
    shifted = TensorView(bytes, odd, base.shape, base.strides)
    path, io = mktemp()
    write(io, zeros(Float32, 24))
    close(io)
    mapped = open(file -> Mmap.mmap(file, Matrix{Float32}, (6, 4)), path)
    @test refused(go(Float64.(w), g), :argument, "float64")
    @test refused(go(wave(4, 6), g), :argument, "shape")
    @test refused(go(view(wave(8, 4), 1:6, :), g), :argument, "row-major")
    @test refused(go(TensorView(wave(4, 6); axes = :same), g), :argument, "row-major")
    @test refused(go(shifted, g), :argument, "aligned")
    @test refused(go(mapped, g), :argument, "cannot be written")
    @test refused(go(w, ones(Int32, 6, 4)), :argument, "the gradient has elements of the type int32")
    @test refused(go(1:24, g), :argument, "no memory of its own")
    @test refused(() -> step!(adamw, [w, w], [g]; lr = 0.1), :argument, "for the 1 that are bound")
    @test_throws TypeError step!(adamw, [w], [g]; lr = "fast")
    @test w == wave(6, 4)
    @test steps(adamw) == 0
    step!(adamw, [w], [mapped]; lr = 0.1)
    @test refused(() -> Optimizer(session, "adamw", [Param(w; uid = 1), Param(w; uid = 1)]), :argument, "uid")
    @test refused(() -> Optimizer(session, "adamw", [zeros(4)]), :unsupported, "")
    @test refused(() -> Param(w; role = :queen), :argument, ":queen")
    @test refused(() -> Optimizer(session, "nf4", [w]), :not_found, "nf4")
end

@testset "tensors" begin
    before = info(session)["live_bytes"]
    t = Tensor{Float32}(session, 3, 5; category = :gradients)
    copyto!(t, wave(3, 5))
    with_array(a -> a[2, 1] = 7, t)
    @test copyto!(zeros(Float32, 3, 5), t)[2, 1] == 7
    @test refused(() -> copyto!(t, wave(5, 3)), :argument, "does not fit")
    @test refused(() -> copyto!(zeros(3, 5), t), :argument, "Float64 does not fit")
    @test refused(() -> Tensor{Float32}(session, 1 << 30), :memory, "memory limit")
    @test refused(() -> Tensor{Float32}(session, 1 << 40, 1 << 40), :argument, "makes no tensor")
    @test refused(() -> Tensor{Float32}(session, 2; category = :toys), :argument, ":toys")
    close(t)
    @test refused(() -> copyto!(t, wave(3, 5)), :state, "the tensor is closed")
    @test info(session)["live_bytes"] == before
end

@testset "quantizers" begin
    nf4 = Quantizer(session, "nf4")
    coded = encode(nf4, wave(128, 64); name = "w")
    whole = decode(coded)
    @test size(whole) == (128, 64)
    @test sum(abs2, whole - wave(128, 64)) < 0.12^2 * sum(abs2, wave(128, 64))
    @test decode(coded, 78:178) == vec(whole)[78:178]
    @test "codes" in components(coded)
    @test refused(() -> decode(coded, 0:100), :argument, "cannot be decoded")
    @test refused(() -> decode!(zeros(Float32, 3), coded), :argument, "cannot be decoded")
    @test refused(() -> encode(nf4, fill(NaN32, 64)), :numeric, "")
    @test refused(() -> encode(nf4, Int32[1, 2]), :unsupported, "")
    close(nf4)
    @test refused(() -> decode(coded), :state, "the quantizer is closed")
    close(coded)
    @test refused(() -> nbytes(coded), :state, "the coded array is closed")
end

@testset "attention" begin
    flash = Attention(session, "flash-attention"; heads = 2, kv_heads = 1, head_size = 16)
    q, k, v = wave(16, 2, 8, 1), wave(16, 1, 8, 1), wave(16, 1, 8, 1)
    lse = zeros(Float32, 8, 2, 1)
    o = forward!(similar(q), flash, q, k, v; lse = lse)
    @test o[:, 2, 1, 1] ≈ v[:, 1, 1, 1]
    @test all(isfinite, lse)
    padded = zeros(Float32, 32, 2, 8, 1)
    padded[1:16, :, :, :] = q
    @test forward!(similar(q), flash, view(padded, 1:16, :, :, :), k, v) == o
    @test refused(() -> forward!(similar(q), flash, k, k, v), :argument, "q does not have the shape")
    @test refused(() -> forward!(zeros(16, 2, 8, 1), flash, q, k, v), :argument, "float64")
    @test refused(() -> Attention(session, "flash-attention"; heads = 3, kv_heads = 2, head_size = 16), :argument, "divide")
end

@testset "handles" begin
    own = Context(STORE)
    s = Session(own, "onednn")
    sgd, t = Optimizer(s, "sgd", [wave(4)]), Tensor{Float32}(s, 4)
    @test refused(() -> close(own), :state, "1 sessions")
    close(s)
    close(s)
    for use in (() -> info(s), () -> steps(sgd), () -> spec(sgd), () -> copyto!(t, wave(4)), () -> Tensor{Float32}(s, 1), () -> step!(sgd, [wave(4)], [wave(4)]; lr = 1))
        @test refused(use, :state, "the session is closed")
    end
    close(sgd)
    close(own)
    close(own)
    @test refused(() -> plugins(own), :state, "the context is closed")

    function forget()
        lost = Session(Context(STORE), "onednn")
        [Optimizer(lost, "adamw", [wave(4, 4)]), Tensor{Float32}(lost, 100), encode(Quantizer(lost, "nf4"), wave(64))]
        foreach(_ -> Tensor{Float32}(session, 4096), 1:50)
    end
    forget()
    before = info(session)["live_bytes"]
    for _ in 1:3
        GC.gc()
    end
    @test info(session)["live_bytes"] < before
end

function with_recipe(f; changes...)
    mktempdir() do folder
        write(joinpath(folder, "data.txt"), join("The joiner cut tenon $i to fit mortise $(i * 7 % 60).\n" for i in 0:59))
        f(Dict{String,Any}("model" => "preset:9m", "data" => joinpath(folder, "data.txt"), "output" => joinpath(folder, "out"), "adapter" => ["lora:r=4"],
                           "device" => "onednn", "seq-len" => 16, "batch-size" => 2, "steps" => 4, "held-out" => 0.2))
    end
end

@testset "training" begin
    with_recipe() do recipe
        trainer = Trainer(recipe; stores = [STORE])
        @test plan(trainer)["fits"]
        losses, points, busy = Float64[], Int[], Bool[]
        result = run!(trainer; on_step = s -> (push!(losses, s.loss); push!(busy, refused(() -> plan(trainer), :state, "in a call already")); nothing),
                      on_evaluated = (step, loss, perplexity) -> push!(points, step), on_note = println)
        @test length(losses) == 4 && points == [0, 4] && all(busy)
        @test result["loss"] == losses[end] && !result["stopped"]
        @test refused(() -> run!(trainer), :conflict, "already holds a run")
        close(trainer)
        @test refused(() -> run!(trainer), :state, "the trainer is closed")
        stop!(trainer)
    end
    with_recipe() do recipe
        recipe["steps"] = 100000
        result = run!(Trainer(recipe; stores = [STORE]); on_step = s -> s.step < 2)
        @test result["stopped"] && result["steps"] == 2
        recipe["resume"] = true
        @test_throws DivideError run!(Trainer(recipe; stores = [STORE]); on_step = s -> div(1, 0))
        recipe["resume"], recipe["overwrite"] = false, true
        trainer = Trainer(recipe; stores = [STORE])
        stop!(trainer)
        @test run!(trainer)["stopped"]
        @test refused(() -> Trainer(Dict{String,Any}()), :argument, "model")
        @test refused(() -> Trainer("{"), :format, "recipe")
        @test refused(() -> Trainer(Dict("model" => "preset:9m", "optimiser" => "adamw"); stores = [STORE]), :argument, "--optimizer")
        @test refused(() -> Trainer(Dict("model" => "preset:9m", "quantizer" => "nf5"); stores = [STORE]), :not_found, "nf4")
        @test refused(() -> Trainer(Dict("model" => NaN)), :argument, "NaN")
        recipe["data"] = "none.txt"
        @test refused(() -> run!(Trainer(recipe; stores = [STORE])), :not_found, "none.txt")
    end
    @test "optimizer" in [key["name"] for key in recipe_keys()]
end

@testset "JSON" begin
    value = Tenon.parse_json("{\"a\": [1, -2.5, \"\\\"\\\\\\u00e9\\ud83d\\ude00\"], \"b\": null, \"c\": true}")
    @test value == Dict("a" => [1, -2.5, "\"\\é😀"], "b" => nothing, "c" => true)
    @test Tenon.parse_json(sprint(Tenon.write_json, value)) == value
    for bad in ["", "{", "[1 2]", "{\"a\"}", "\"\\u12\"", "\"\\ud83d\"", "nul", "1 2", "--1", "["^100000]
        @test refused(() -> Tenon.parse_json(bad), :format, "no JSON")
    end
end

close(session)
close(context)
