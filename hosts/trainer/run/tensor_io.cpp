#include "hosts/trainer/run/tensor_io.h"

#include <algorithm>

#include "core/error.h"

namespace tenon::trainer {
namespace {

constexpr int64_t kPiece = 8 << 20;  // bytes on the host at a time

Tensor flat(const Tensor& t) { return t.reshaped({t.count()}); }

}  // namespace

FileDtype file_dtype(tn_dtype d) {
  if (d == kF32) return FileDtype::kF32;
  if (d == kBF16) return FileDtype::kBf16;
  if (d == kF16) return FileDtype::kF16;
  if (d == kU8) return FileDtype::kU8;
  if (d == kI32) return FileDtype::kI32;
  if (d == kF64) return FileDtype::kF64;
  if (d.code == TN_INT && d.bits == 8) return FileDtype::kI8;
  if (d.code == TN_INT && d.bits == 64) return FileDtype::kI64;
  throw Error(TN_E_UNSUPPORTED, "a state has a dtype that safetensors does not know");
}

std::vector<int64_t> file_shape(const Tensor& t) { return {t.shape(), t.shape() + t.ndim()}; }

void write_tensor_as(Engine& engine, const Tensor& tensor, tn_dtype dtype, const std::function<void(ByteSpan)>& write) {
  const Tensor all = flat(tensor);
  const int64_t step = kPiece / element_bytes(dtype);
  std::vector<std::byte> host(static_cast<size_t>(std::min(kPiece, all.count() * element_bytes(dtype))));
  Tensor stage;
  if (!(dtype == tensor.dtype())) stage = engine.empty(Category::kWorkspace, dtype, {std::max<int64_t>(std::min(step, all.count()), 1)});
  for (int64_t i = 0; i < all.count(); i += step) {
    const int64_t end = std::min(i + step, all.count());
    Tensor part = all.rows(i, end);
    if (stage) {
      engine.axpby(1, part, 0, stage.rows(0, end - i));
      part = stage.rows(0, end - i);
    }
    engine.download(part, host.data());
    write({host.data(), static_cast<size_t>(part.bytes())});
  }
}

void write_tensor(Engine& engine, const Tensor& tensor, const std::function<void(ByteSpan)>& write) {
  write_tensor_as(engine, tensor, tensor.dtype(), write);
}

void read_tensor(Engine& engine, const SafetensorsReader& reader, const std::string& key, const Tensor& to) {
  const TensorEntry& entry = reader.get(key);
  if (entry.dtype != file_dtype(to.dtype()) || entry.shape != file_shape(to))
    throw Error(TN_E_FORMAT, reader.path() + ": tensor " + quote_name(key) + " has another dtype or shape than this run; it belongs to a different mix");
  engine.upload(reader.data(entry).data(), to);
  engine.synchronize();
  reader.drop(entry);
}

}  // namespace tenon::trainer
