#include "hosts/conformance/exports.h"

#include <elf.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <string_view>

#include "core/error.h"
#include "core/files/mapped_file.h"
#include "core/plugins/elf.h"

namespace tenon::conformance {
namespace {

constexpr std::array<std::string_view, 6> kOfTheLinker = {"_init", "_fini",       "_edata",
                                                          "_end",  "__bss_start", "_DYNAMIC"};

class Image {
 public:
  Image(ByteSpan bytes, const std::string& path) : bytes_(bytes), path_(path) {}

  template <class T>
  T at(uint64_t offset) const {
    T value;
    if (offset > bytes_.size() || bytes_.size() - offset < sizeof value)
      throw Error(TN_E_FORMAT, path_ + ": the object is cut short; get it again");
    std::memcpy(&value, bytes_.data() + offset, sizeof value);
    return value;
  }
  std::string text(uint64_t offset) const {
    std::string out;
    for (char c; (c = at<char>(offset)) != 0; ++offset) out += c;
    return out;
  }

 private:
  ByteSpan bytes_;
  const std::string& path_;
};

bool is_exported(const Elf64_Sym& symbol) {
  const auto binding = ELF64_ST_BIND(symbol.st_info), visibility = ELF64_ST_VISIBILITY(symbol.st_other);
  const bool visible = visibility == STV_DEFAULT || visibility == STV_PROTECTED;
  return symbol.st_shndx != SHN_UNDEF && visible &&
         (binding == STB_GLOBAL || binding == STB_WEAK || binding == STB_GNU_UNIQUE);
}

}  // namespace

std::vector<std::string> exported_symbols(const std::string& path) {
  (void)object_arch(path);  // refuses what is not such an object
  const MappedFile file(path);
  const Image image(file.bytes(), path);
  const auto header = image.at<Elf64_Ehdr>(0);
  const auto section = [&](uint64_t i) { return image.at<Elf64_Shdr>(header.e_shoff + i * sizeof(Elf64_Shdr)); };
  std::vector<std::string> out;
  for (uint64_t i = 0; i < header.e_shnum; ++i) {
    const Elf64_Shdr symbols = section(i);
    if (symbols.sh_type != SHT_DYNSYM || symbols.sh_link >= header.e_shnum) continue;
    const Elf64_Shdr names = section(symbols.sh_link);
    for (uint64_t at = 0; at + sizeof(Elf64_Sym) <= symbols.sh_size; at += sizeof(Elf64_Sym)) {
      const auto symbol = image.at<Elf64_Sym>(symbols.sh_offset + at);
      if (!is_exported(symbol)) continue;
      std::string name = image.text(names.sh_offset + symbol.st_name);
      if (std::find(kOfTheLinker.begin(), kOfTheLinker.end(), name) == kOfTheLinker.end())
        out.push_back(std::move(name));
    }
  }
  return out;
}

}  // namespace tenon::conformance
