// Ids, versions and the nearest name.
#include "core/plugins/kinds.h"

#include <gtest/gtest.h>

#include "core/plugins/nearest.h"

namespace tenon {
namespace {

TEST(Kinds, NamesGoBothWays) {
  for (uint32_t kind = TN_KIND_DEVICE; kind <= TN_KIND_ATTENTION; ++kind)
    EXPECT_EQ(kind_from_name(kind_name(kind)), kind);
  EXPECT_EQ(kind_from_name("?"), static_cast<uint32_t>(TN_KIND_UNDEFINED));
  EXPECT_EQ(kind_name(77), "?");
}

TEST(Ids, AreSafeAsFolderNames) {
  for (const char* const good : {"galore", "com.example.lion", "adam-mini", "q_galore", "8bit"})
    EXPECT_TRUE(valid_id(good)) << good;
  for (const char* const bad : {"", ".", "..", "../x", "a/b", ".hidden", "GaLore", "a b", "a\n", "-x"})
    EXPECT_FALSE(valid_id(bad)) << bad;
  EXPECT_FALSE(valid_id(std::string(101, 'a')));
}

TEST(Versions, SortAsPeopleExpect) {
  const char* const order[] = {"0.9.0", "0.10.0", "1.0.0-alpha", "1.0.0-rc1",    "1.0.0",
                               "1.0.1", "1.2.0",  "1.10.0",      "999999999.0.0"};
  for (size_t i = 1; i < std::size(order); ++i) EXPECT_LT(version_key(order[i - 1]), version_key(order[i])) << order[i];
  for (const char* const bad :
       {"", "1", "1.2", "1.2.", "1.2.3.4", "v1.2.3", "1.2.3-", "1.-2.3", "1.2.1000000000", "1.2.3-a/b", " 1.2.3"}) {
    EXPECT_FALSE(valid_version(bad)) << bad;
  }
}

TEST(Nearest, FindsTypingErrors) {
  EXPECT_EQ(edit_distance("rnak", "rank"), 1u);
  EXPECT_EQ(edit_distance("", "rank"), 4u);
  EXPECT_EQ(nearest("adamv", {"adamw", "galore", "sgd"}), "adamw");
  EXPECT_EQ(nearest("flash", {"dense", "flash-attention"}), "flash-attention");
  EXPECT_EQ(nearest("lr", {"rank", "update_proj_gap"}), "");
  EXPECT_EQ(nearest("x", {}), "");
  EXPECT_LE(edit_distance(std::string(1 << 20, 'a'), std::string(1 << 20, 'b')), 100u);
}

}  // namespace
}  // namespace tenon
