"What the library refused or failed at: `status` (`:argument`, `:not_found`, `:state`, …) and one sentence with the fix."
struct TenonError <: Exception
    status::Symbol
    sentence::String
end

Base.showerror(io::IO, e::TenonError) = print(io, "TenonError (", e.status, "): ", e.sentence)

text(p::Ptr{UInt8}) = p == C_NULL ? "" : unsafe_string(p)

status_symbol(status) = Symbol(lowercase(replace(text(tn_status_name(status)), "TN_E_" => "")))

function failure(status, sentence)
    why = text(sentence)
    TenonError(status_symbol(status), isempty(why) ? text(tn_status_message(status)) : why)
end

check(status) = status < 0 ? throw(failure(status, tn_last_error())) : nothing
check_trainer(status) = status < 0 ? throw(failure(status, tn_trainer_last_error())) : nothing

refuse(status::Symbol, sentence) = throw(TenonError(status, sentence))

"The text that `fill` leaves in its argument; it is the library's to free."
function take(fill, check)
    out = Ref{Ptr{UInt8}}(C_NULL)
    check(fill(out))
    answer = text(out[])
    tn_free_string(out[])
    answer
end

"Pointers to texts, which the second value keeps alive."
function texts(list)
    kept = [Base.cconvert(Cstring, String(s)) for s in list]
    [convert(Ptr{UInt8}, Base.unsafe_convert(Cstring, s)) for s in kept], kept
end

"The size that a struct states: to the end of its last field, without padding."
struct_size(T) = UInt32(fieldoffset(T, fieldcount(T)) + sizeof(fieldtype(T, fieldcount(T))))

"The library's version and the ABI that plugins are offered."
version() = VersionNumber(text(tn_version()))
function abi_version()
    major, minor = Ref{UInt32}(0), Ref{UInt32}(0)
    tn_abi_version(major, minor)
    (Int(major[]), Int(minor[]))
end
