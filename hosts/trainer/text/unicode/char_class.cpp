#include "hosts/trainer/text/unicode/char_class.h"

#include <unicode/uchar.h>

#include <vector>

namespace tenon::trainer {
namespace {

uint8_t flags_of(UChar32 c) {
  uint8_t flags = 0;
  const uint32_t category = U_GET_GC_MASK(c);
  if (category & U_GC_L_MASK) flags |= kLetter;
  if (category & U_GC_N_MASK) flags |= kNumber;
  if (category & U_GC_M_MASK) flags |= kMark;
  if (u_isUWhiteSpace(c)) flags |= kSpace;
  if ((category & U_GC_P_MASK) || (c < 0x80 && (category & U_GC_S_MASK))) flags |= kPunctuation;
  if (u_isUAlphabetic(c) || (category & (U_GC_M_MASK | U_GC_ND_MASK | U_GC_PC_MASK)) ||
      u_hasBinaryProperty(c, UCHAR_JOIN_CONTROL))
    flags |= kWord;
  return flags;
}

// Planes 4 to 13 hold no assigned character and 15, 16 are private use: their flags stay 0, which is right for both.
std::vector<uint8_t> build_table() {
  std::vector<uint8_t> table(0x110000, 0);
  for (UChar32 c = 0; c < 0x40000; ++c) table[c] = flags_of(c);
  for (UChar32 c = 0xE0000; c < 0xE0200; ++c) table[c] = flags_of(c);
  return table;
}

}  // namespace

const uint8_t* char_class_table() {
  static const std::vector<uint8_t> table = build_table();
  return table.data();
}

}  // namespace tenon::trainer
