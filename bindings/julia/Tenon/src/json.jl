# The JSON that the library answers, and recipes. Objects are Dict{String,Any}, lists Vector{Any}.

mutable struct JSONReader
    data::Vector{UInt8}
    at::Int
    depth::Int
end

function parse_json(text::AbstractString)
    r = JSONReader(Vector{UInt8}(text), 1, 0)
    value = json_value(r)
    space!(r)
    r.at > length(r.data) ? value : bad_json(r)
end

bad_json(r) = refuse(:format, "this is no JSON at byte $(r.at)")
space!(r) = while r.at <= length(r.data) && r.data[r.at] in b" \n\r\t"
    r.at += 1
end
peek(r) = r.at <= length(r.data) ? r.data[r.at] : 0x00

function next!(r, word)
    space!(r)
    n = ncodeunits(word)
    found = r.at + n - 1 <= length(r.data) && all(i -> r.data[r.at+i-1] == codeunit(word, i), 1:n)
    found && (r.at += n)
    found
end
need!(r, word) = next!(r, word) || bad_json(r)

function json_value(r)
    (r.depth += 1) > 200 && bad_json(r)
    value = json_any(r)
    r.depth -= 1
    value
end

function json_any(r)
    next!(r, "null") && return nothing
    next!(r, "true") && return true
    next!(r, "false") && return false
    if next!(r, "[")
        items = Any[]
        while !next!(r, "]")
            isempty(items) || need!(r, ",")
            push!(items, json_value(r))
        end
        return items
    end
    if next!(r, "{")
        fields = Dict{String,Any}()
        while !next!(r, "}")
            isempty(fields) || need!(r, ",")
            space!(r)
            key = json_text(r)
            need!(r, ":")
            fields[key] = json_value(r)
        end
        return fields
    end
    peek(r) == UInt8('"') && return json_text(r)
    start = r.at
    while peek(r) in b"0123456789+-.eE"
        r.at += 1
    end
    number = String(r.data[start:r.at-1])
    whole = tryparse(Int64, number)
    whole === nothing || return whole
    something(tryparse(Float64, number), Some(nothing)) === nothing ? bad_json(r) : parse(Float64, number)
end

function json_hex(r)
    r.at + 3 <= length(r.data) || bad_json(r)
    code = tryparse(UInt32, String(r.data[r.at:r.at+3]); base = 16)
    code === nothing && bad_json(r)
    r.at += 4
    code
end

const ESCAPES = Dict(UInt8('n') => '\n', UInt8('t') => '\t', UInt8('r') => '\r', UInt8('b') => '\b', UInt8('f') => '\f', UInt8('"') => '"',
                     UInt8('\\') => '\\', UInt8('/') => '/')

function json_text(r)
    need!(r, "\"")
    out = IOBuffer()
    while true
        r.at <= length(r.data) || bad_json(r)
        byte = r.data[r.at]
        r.at += 1
        byte == UInt8('"') && return String(take!(out))
        if byte != UInt8('\\')
            write(out, byte)
            continue
        end
        escape = peek(r)
        r.at += 1
        if escape == UInt8('u')
            code = json_hex(r)
            if 0xd800 <= code < 0xdc00
                (peek(r) == UInt8('\\') && r.at < length(r.data) && r.data[r.at+1] == UInt8('u')) || bad_json(r)
                r.at += 2
                code = 0x10000 + ((code - 0xd800) << 10) + (json_hex(r) - 0xdc00)
            end
            print(out, Char(code))
        else
            haskey(ESCAPES, escape) || bad_json(r)
            print(out, ESCAPES[escape])
        end
    end
end

write_json(io, ::Nothing) = print(io, "null")
write_json(io, value::Bool) = print(io, value)
write_json(io, value::Integer) = print(io, value)
write_json(io, value::AbstractFloat) = isfinite(value) ? print(io, Float64(value)) : refuse(:argument, "$value cannot be written as JSON")
write_json(io, value::Symbol) = write_json(io, String(value))
function write_json(io, value::AbstractString)
    print(io, '"')
    for c in value
        c in ('"', '\\') ? print(io, '\\', c) : c < ' ' ? print(io, "\\u", string(UInt32(c); base = 16, pad = 4)) : print(io, c)
    end
    print(io, '"')
end
function write_json(io, value::Union{AbstractVector,Tuple})
    print(io, '[')
    for (i, item) in enumerate(value)
        i > 1 && print(io, ',')
        write_json(io, item)
    end
    print(io, ']')
end
function write_json(io, value::AbstractDict)
    print(io, '{')
    for (i, (key, item)) in enumerate(value)
        i > 1 && print(io, ',')
        write_json(io, String(key))
        print(io, ':')
        write_json(io, item)
    end
    print(io, '}')
end
write_json(io, value) = refuse(:argument, "a value of the type $(typeof(value)) cannot be written as JSON")
