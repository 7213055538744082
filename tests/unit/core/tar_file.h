// Archives as a stranger could make them: headers of any type, size and name, cut and padded at will.
#pragma once

#include <cstdio>
#include <cstring>
#include <string>

namespace tenon::testing {

class TarFile {
 public:
  // One entry. `stated` is the size in the header, `data` what follows, padded to the block. `type` '0' is a plain
  // file.
  TarFile& add(const std::string& name, const std::string& data, char type = '0', const std::string& link = "",
               int64_t stated = -1) {
    char h[512] = {};
    std::snprintf(h, 100, "%s", name.c_str());
    std::snprintf(h + 100, 8, "%07o", 0644), std::snprintf(h + 108, 8, "%07o", 0), std::snprintf(h + 116, 8, "%07o", 0);
    std::snprintf(h + 124, 12, "%011llo", static_cast<unsigned long long>(stated < 0 ? data.size() : stated));
    std::snprintf(h + 136, 12, "%011o", 0);
    h[156] = type;
    std::snprintf(h + 157, 100, "%s", link.c_str());
    std::memcpy(h + 257, "ustar\00000", 8);
    std::memset(h + 148, ' ', 8);
    unsigned sum = 0;
    for (const char c : h) sum += static_cast<unsigned char>(c);
    std::snprintf(h + 148, 8, "%06o", sum);
    bytes_.append(h, sizeof h).append(data);
    bytes_.append((512 - data.size() % 512) % 512, '\0');
    return *this;
  }
  // The whole archive, ended and padded as write_archive does.
  std::string bytes() const {
    std::string out = bytes_ + std::string(1024, '\0');
    out.append((10240 - out.size() % 10240) % 10240, '\0');
    return out;
  }

 private:
  std::string bytes_;
};

}  // namespace tenon::testing
