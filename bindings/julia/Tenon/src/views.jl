"The bits of a bfloat16 number: the upper half of a Float32."
struct BFloat16
    bits::UInt16
end
BFloat16(x::Real) = BFloat16(UInt16(reinterpret(UInt32, Float32(x)) >> 16))
Base.Float32(x::BFloat16) = reinterpret(Float32, UInt32(x.bits) << 16)

const DTYPES = Dict{DataType,tn_dtype}(
    Float64 => tn_dtype(TN_FLOAT, 64, 1), Float32 => tn_dtype(TN_FLOAT, 32, 1), Float16 => tn_dtype(TN_FLOAT, 16, 1), BFloat16 => tn_dtype(TN_BFLOAT, 16, 1),
    Int8 => tn_dtype(TN_INT, 8, 1), Int16 => tn_dtype(TN_INT, 16, 1), Int32 => tn_dtype(TN_INT, 32, 1), Int64 => tn_dtype(TN_INT, 64, 1),
    UInt8 => tn_dtype(TN_UINT, 8, 1), UInt16 => tn_dtype(TN_UINT, 16, 1), UInt32 => tn_dtype(TN_UINT, 32, 1), UInt64 => tn_dtype(TN_UINT, 64, 1))

function dtype_of(T)
    haskey(DTYPES, T) || refuse(:argument, "arrays of $T cannot be used; convert to Float32")
    DTYPES[T]
end

"""
    TensorView(array; axes = :reversed)

The tensor that the library sees, over the array's own memory. `axes = :reversed` (what every function of this package uses) reads the axes
backwards, so that a plain array is dense row-major; `axes = :same` keeps their order and states column-major strides, for techniques that take
strides. `size` and `strides` answer the tensor's own, not the array's.
"""
struct TensorView
    parent::Any
    raw::tn_tensor
    shape::Vector{Int64}
    strides::Vector{Int64}
end

function TensorView(array::StridedArray{T,N}; axes::Symbol = :reversed, write::Bool = false) where {T,N}
    dtype = dtype_of(T)
    N <= 4 || refuse(:argument, "an array of $N dimensions was given; 0 to 4 are possible")
    write && array isa Base.CodeUnits && refuse(:argument, "the bytes of a string are read-only and would be written; give a Vector{UInt8}")
    axes in (:reversed, :same) || refuse(:argument, "axes = $(repr(axes)) is not one of :reversed, :same")
    order = axes === :reversed ? reverse : identity
    shape, steps = collect(Int64, order(size(array))), collect(Int64, order(Base.strides(array)))
    raw = tn_tensor(isempty(array) ? C_NULL : Ptr{Cvoid}(pointer(array)), tn_device_id(TN_CPU, 0), N, dtype, pointer(shape), pointer(steps), 0)
    TensorView(array, raw, shape, steps)
end
TensorView(view::TensorView; write::Bool = false) = view
TensorView(x; kwargs...) = refuse(:argument, "a value of the type $(typeof(x)) has no memory of its own; give an Array, for example by collect")

Base.size(v::TensorView) = Tuple(v.shape)
Base.strides(v::TensorView) = Tuple(v.strides)
