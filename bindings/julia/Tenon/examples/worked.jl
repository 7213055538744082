# The worked example: worked.jl STORE FOLDER. The other languages' examples print the same digits.
using Printf
using Tenon

const SAMPLES, IN, OUT, STEPS = 16, 16, 8, 150

"n numbers of [-0.5, 0.5) that every language makes alike, exact in Float32."
function numbers(n, seed)
    map(1:n) do _
        seed = seed * 0x5851f42d4c957f2d + 0x14057b7ef767814f
        Float32((seed >> 40) / 16777216.0 - 0.5)
    end
end
fill_array(seed, dims...) = reshape(numbers(prod(dims), UInt64(seed)), dims)

digest(values) = foldl((h, byte) -> (h ⊻ byte) * 0x00000100000001b3, reinterpret(UInt8, vec(values)); init = 0xcbf29ce484222325)

"Mean squared error of X Wᵀ against X Tᵀ, and its gradient, in Float64. Row-major matrices: the first index runs along a row."
function loss_and_gradient!(g, x, t, w)
    loss, sums = 0.0, zeros(IN, OUT)
    for s in 1:SAMPLES, o in 1:OUT
        e = 0.0
        for i in 1:IN
            e += Float64(x[i, s]) * (Float64(w[i, o]) - Float64(t[i, o]))
        end
        loss += e * e
        for i in 1:IN
            sums[i, o] += e * Float64(x[i, s])
        end
    end
    g .= Float32.(sums .* (2.0 / (SAMPLES * OUT)))
    loss / (SAMPLES * OUT)
end

function regression(session)
    x, t, w, g = fill_array(1, IN, SAMPLES), fill_array(2, IN, OUT), fill_array(3, IN, OUT), zeros(Float32, IN, OUT)
    galore = Optimizer(session, "galore:rank=4,update_proj_gap=10,scale=1", [Param(w; role = :q, uid = 1, name = "w")])
    first = last = loss_and_gradient!(g, x, t, w)
    for _ in 1:STEPS
        step!(galore, [w], [g]; lr = 0.05, seed = 7)
        last = loss_and_gradient!(g, x, t, w)
    end
    @printf("galore: loss %.6f, after %d steps %.6f, digest %s\n", first, STEPS, last, string(digest(w); base = 16, pad = 16))
end

function codec(session)
    matrix = fill_array(11, 128, 64)
    coded = encode(Quantizer(session, "nf4"), matrix; name = "matrix", seed = 1)
    back = decode(coded)
    worst = maximum(abs.(Float64.(back) .- Float64.(matrix)))
    @printf("nf4: %d bytes, worst error %.6f, digest %s\n", nbytes(coded), worst, string(digest(back); base = 16, pad = 16))
end

function attention(session)
    flash = Attention(session, "flash-attention"; heads = 4, kv_heads = 2, head_size = 16)
    q, k, v = fill_array(21, 16, 4, 16, 1), fill_array(22, 16, 2, 16, 1), fill_array(23, 16, 2, 16, 1)
    @printf("attention: digest %s\n", string(digest(forward!(similar(q), flash, q, k, v)); base = 16, pad = 16))
end

function training(store, folder)
    data = joinpath(folder, "data.txt")
    write(data, join("The joiner cut tenon $i to fit mortise $(i * 7 % 60).\n" for i in 0:59))
    recipe = Dict("model" => "preset:9m", "data" => data, "output" => joinpath(folder, "out"), "device" => "onednn", "adapter" => "lora:r=4",
                  "quantizer" => "nf4", "optimizer" => "galore:rank=4", "seq-len" => 32, "batch-size" => 2, "steps" => 5, "lr" => 0.01,
                  "schedule" => "constant", "seed" => 3)
    losses = Float64[]
    run!(Trainer(recipe; stores = [store]); on_step = step -> (push!(losses, step.loss); true))
    @printf("train: %d steps, loss %.6f, digest %s\n", length(losses), losses[end], string(digest(losses); base = 16, pad = 16))
end

function main(store, folder)
    context = Context(store)
    println("catalog: ", join((p["id"] for p in plugins(context)), ", "))
    answer = mix(context, :optimizer => "galore:rank=4", :adapter => "lora:r=4", :quantizer => "nf4", :attention => "flash-attention")
    why_not = mix(context, :optimizer => "galore:rank=4"; tags = ["device:abacus"])["reasons"][1]["sentence"]
    println("mix: ", answer["possible"] ? "possible" : "not possible", "; ", why_not)
    session = Session(context, "onednn")
    regression(session)
    codec(session)
    attention(session)
    training(store, folder)
end

main(ARGS...)
