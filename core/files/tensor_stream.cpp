#include "core/files/tensor_stream.h"

#include "core/error.h"

namespace tenon {

TensorStream::TensorStream(const std::string& path, std::string_view header, std::vector<Slot> slots,
                           uint64_t file_bytes)
    : file_(path), slots_(std::move(slots)) {
  for (size_t i = 0; i < slots_.size(); ++i) index_.emplace(slots_[i].name, i);
  file_.resize(file_bytes);
  file_.write_at(0, as_bytes(header));
}

void TensorStream::write(std::string_view name, ByteSpan bytes) {
  const auto at = index_.find(name);
  if (at == index_.end()) {
    throw Error(TN_E_NOT_FOUND, file_.path() + ": tensor " + quote_name(name) +
                                    " was not announced when the file was begun; a defect, please report it");
  }
  Slot& slot = slots_[at->second];
  if (bytes.size() > slot.bytes - slot.written) {
    throw Error(TN_E_ARGUMENT, file_.path() + ": tensor " + quote_name(name) + " was announced with " +
                                   std::to_string(slot.bytes) + " bytes but is given " +
                                   std::to_string(slot.written + bytes.size()) + "; a defect, please report it");
  }
  file_.write_at(slot.offset + slot.written, bytes);
  slot.written += bytes.size();
}

void TensorStream::commit() {
  for (const Slot& slot : slots_) {
    if (slot.written == slot.bytes) continue;
    throw Error(TN_E_STATE, file_.path() + ": tensor " + quote_name(slot.name) + " has " +
                                std::to_string(slot.written) + " of its " + std::to_string(slot.bytes) +
                                " bytes; a defect, please report it");
  }
  file_.commit();
}

}  // namespace tenon
