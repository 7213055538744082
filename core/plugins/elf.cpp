#include "core/plugins/elf.h"

#include <elf.h>

#include <cstring>

#include "core/error.h"
#include "core/files/mapped_file.h"

namespace tenon {
namespace {

std::string arch_name(uint16_t machine) {
  switch (machine) {
    case EM_X86_64:
      return "x86_64";
    case EM_AARCH64:
      return "aarch64";
    case EM_RISCV:
      return "riscv64";
    case EM_PPC64:
      return "ppc64";
    default:
      return "machine-" + std::to_string(machine);
  }
}

}  // namespace

std::string host_arch() {
#if defined(__x86_64__)
  return "x86_64";
#elif defined(__aarch64__)
  return "aarch64";
#elif defined(__riscv)
  return "riscv64";
#else
  return "ppc64";
#endif
}

std::string object_arch(const std::string& path) {
  const auto refuse = [&](const std::string& why) { throw Error(TN_E_FORMAT, path + ": " + why); };
  const MappedFile file(path);
  Elf64_Ehdr header;
  if (file.size() < sizeof header || std::memcmp(file.bytes().data(), ELFMAG, SELFMAG) != 0) {
    refuse("this is not a shared object (its ELF header is missing); build the plugin again");
  }
  std::memcpy(&header, file.bytes().data(), sizeof header);
  if (header.e_ident[EI_CLASS] != ELFCLASS64 || header.e_ident[EI_DATA] != ELFDATA2LSB) {
    refuse("this object is not 64-bit little-endian; build the plugin for " + host_arch());
  }
  if (header.e_type != ET_DYN) refuse("this ELF file is not a shared object; link the plugin with -shared");
  const uint64_t n = header.e_phnum, at = header.e_phoff;
  if (header.e_phentsize != sizeof(Elf64_Phdr) || at > file.size() || n * sizeof(Elf64_Phdr) > file.size() - at) {
    refuse("its program headers lie outside the file; the object is damaged, build or download it again");
  }
  for (uint64_t i = 0; i < n; ++i) {
    Elf64_Phdr segment;
    std::memcpy(&segment, file.bytes().data() + at + i * sizeof segment, sizeof segment);
    if (segment.p_type != PT_LOAD) continue;
    if (segment.p_offset > file.size() || segment.p_filesz > file.size() - segment.p_offset) {
      refuse("segment " + std::to_string(i) + " ends beyond the file's " + std::to_string(file.size()) +
             " bytes; the object is cut off, build or download it again");
    }
  }
  return arch_name(header.e_machine);
}

}  // namespace tenon
