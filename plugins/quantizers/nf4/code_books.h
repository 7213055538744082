// The two 4-bit code books, the thresholds between their entries, and the order in which codes rise.
#pragma once

#include <cstdint>

namespace tenon::nf4 {

// Dettmers et al. 2023: quantiles of the unit normal, scaled to [-1, 1], with an exact zero.
inline constexpr float kNormalBook[16] = {-1.0f,
                                          -0.6961928009986877f,
                                          -0.5250730514526367f,
                                          -0.39491748809814453f,
                                          -0.28444138169288635f,
                                          -0.18477343022823334f,
                                          -0.09105003625154495f,
                                          0.0f,
                                          0.07958029955625534f,
                                          0.16093020141124725f,
                                          0.24611230194568634f,
                                          0.33791524171829224f,
                                          0.44070982933044434f,
                                          0.5626170039176941f,
                                          0.7229568362236023f,
                                          1.0f};

// Bit 3 is the sign. Neither monotone in the code nor OCP's E2M1.
inline constexpr float kFloatBook[16] = {0.0f, 0.0625f / 12,  8.0f / 12,  1.0f,  4.0f / 12,  0.5f,  2.0f / 12,  0.25f,
                                         0.0f, -0.0625f / 12, -8.0f / 12, -1.0f, -4.0f / 12, -0.5f, -2.0f / 12, -0.25f};

// A book with its codes in rising order of value. A number takes the entry of rank r when it is strictly greater than
// exactly the first r thresholds: halfway goes to the lower entry.
struct CodeBook {
  const char* name;
  float value[16];    // by code
  uint8_t order[16];  // code of each rank
  float threshold[15];
  uint8_t zero;        // the code that is given to 0
  bool rising = true;  // codes rise with their values

  constexpr CodeBook(const char* id, const float (&book)[16], const uint8_t (&ranked)[16])
      : name(id), value{}, order{}, threshold{}, zero(0) {
    for (int i = 0; i < 16; ++i) value[i] = book[i], order[i] = ranked[i], rising = rising && ranked[i] == i;
    int rank = 0;
    for (int i = 0; i < 15; ++i) {
      threshold[i] = (book[ranked[i]] + book[ranked[i + 1]]) / 2;
      rank += 0.0f > threshold[i];
    }
    zero = ranked[rank];
  }
};

inline constexpr CodeBook kNf4{"nf4", kNormalBook, {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}};
inline constexpr CodeBook kFp4{"fp4", kFloatBook, {11, 10, 13, 12, 15, 14, 9, 0, 8, 1, 6, 7, 4, 5, 2, 3}};

inline constexpr int kMaxBlock = 4096;
inline constexpr int kNestedBlock = 256;

}  // namespace tenon::nf4
