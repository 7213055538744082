// Specs: what parses, what it means, and what each mistake is told.
#include "core/plugins/spec.h"

#include <gtest/gtest.h>

#include <limits>

#include "plugin_folder.h"

namespace tenon {
namespace {

using testing::sentence_of;

constexpr double kInf = std::numeric_limits<double>::infinity();

Schema galore() {
  return {{TN_TYPE_INT, "rank", "128", 1, kInf, 0, {}, "", ""},
          {TN_TYPE_FLOAT, "scale", "0.25", 0, kInf, TN_RANGE_OPEN_MIN, {}, "", ""},
          {TN_TYPE_FLOAT, "beta2", "0.999", 0, 1, TN_RANGE_OPEN_MAX, {}, "", ""},
          {TN_TYPE_BOOL, "nesterov", "false", 0, 0, 0, {}, "", ""},
          {TN_TYPE_CHOICE, "proj_type", "std", 0, 0, 0, {"std", "left"}, "", ""},
          {TN_TYPE_STRING, "path", "", 0, 0, 0, {}, "", ""}};
}

Spec parse(const std::string& text) {
  return parse_spec(text, galore());
}
std::string refusal(const std::string& text) {
  return sentence_of([&] { (void)parse(text); });
}

TEST(Spec, FillsInDefaultsInTheSchemasOrder) {
  const Spec spec = parse("galore:scale=1e-3, nesterov=yes");
  EXPECT_EQ(spec.id, "galore");
  ASSERT_EQ(spec.values.size(), 6u);
  EXPECT_EQ(spec.values[0].i, 128);
  EXPECT_EQ(spec.find("scale")->f, 1e-3);
  EXPECT_EQ(spec.find("nesterov")->i, 1);
  EXPECT_EQ(spec.find("proj_type")->s, "std");
  EXPECT_EQ(spec.find("nothing"), nullptr);
  EXPECT_EQ(short_form(spec), "galore:scale=0.001,nesterov=true");
  EXPECT_EQ(canonical(spec), "galore:rank=128,scale=0.001,beta2=0.999,nesterov=true,proj_type=std,path=\"\"");
}

TEST(Spec, TheCanonicalFormReadsBack) {
  for (const char* const text : {"galore", "galore:rank=1,scale=0.1,beta2=0.30000000000000004",
                                 "galore:path=\"a,b \\\"c\\\\d=\"", "galore:path=/x/y:z"}) {
    const Spec spec = parse(text);
    EXPECT_EQ(parse(canonical(spec)), spec) << canonical(spec);
    EXPECT_EQ(parse(short_form(spec)), spec) << short_form(spec);
  }
  EXPECT_EQ(parse("galore:path=\"a,b \\\"c\\\\d=\"").find("path")->s, "a,b \"c\\d=");
}

TEST(Spec, BooleansHaveManySpellings) {
  for (const char* const yes : {"true", "1", "yes", "on", "True"})
    EXPECT_EQ(parse(std::string("galore:nesterov=") + yes).find("nesterov")->i, 1);
  for (const char* const no : {"false", "0", "no", "off", "NO"})
    EXPECT_EQ(parse(std::string("galore:nesterov=") + no).find("nesterov")->i, 0);
}

TEST(Spec, MistakesAreNamedWithTheWayOut) {
  EXPECT_EQ(refusal("galore:rnak=4"), "galore has no parameter 'rnak'; did you mean 'rank'?");
  EXPECT_EQ(refusal("galore:zzzzzzzzz=4"),
            "galore has no parameter 'zzzzzzzzz'; it takes rank, scale, beta2, nesterov, proj_type and path");
  EXPECT_EQ(refusal("galore:beta2=1.5"), "galore: beta2=1.5 is not valid; beta2 is a number with 0 <= beta2 < 1");
  EXPECT_EQ(refusal("galore:beta2=1"), "galore: beta2=1 is not valid; beta2 is a number with 0 <= beta2 < 1");
  EXPECT_EQ(refusal("galore:scale=0"), "galore: scale=0 is not valid; scale is a number with scale > 0");
  EXPECT_EQ(refusal("galore:rank=many"), "galore: rank=many is not valid; rank is a whole number with rank >= 1");
  EXPECT_EQ(refusal("galore:rank=1.5"), "galore: rank=1.5 is not valid; rank is a whole number with rank >= 1");
  EXPECT_EQ(refusal("galore:rank=99999999999999999999"),
            "galore: rank=99999999999999999999 is not valid; rank is a whole number with rank >= 1");
  EXPECT_EQ(refusal("galore:scale=nan"), "galore: scale=nan is not valid; scale is a number with scale > 0");
  EXPECT_EQ(refusal("galore:scale=inf"), "galore: scale=inf is not valid; scale is a number with scale > 0");
  EXPECT_EQ(refusal("galore:proj_type=right"), "galore: proj_type=right is not valid; proj_type is one of std, left");
  EXPECT_EQ(refusal("galore:nesterov=maybe"), "galore: nesterov=maybe is not valid; nesterov is true or false");
  EXPECT_EQ(refusal("galore:rank="), "galore: rank='' is not valid; rank is a whole number with rank >= 1");
  EXPECT_EQ(refusal("galore:rank=\"1\n2\""), "galore: rank='1?2' is not valid; rank is a whole number with rank >= 1");
  EXPECT_EQ(refusal("galore:rank=1,rank=2"), "galore: rank is given twice; keep one of the two");
  EXPECT_EQ(sentence_of([] { (void)parse_spec("plain:x=1", {}); }),
            "plain has no parameter 'x'; it takes no parameters");
}

TEST(Spec, BrokenSyntaxIsNamed) {
  const std::string tail = "; write it as id or id:key=value,key=value";
  EXPECT_EQ(refusal(""), "'' is not a technique with its parameters: the technique's id is missing" + tail);
  EXPECT_EQ(refusal("galore:rank"), "'galore:rank' is not a technique with its parameters: 'rank' has no value" + tail);
  EXPECT_EQ(refusal("galore:rank,scale=1"),
            "'galore:rank,scale=1' is not a technique with its parameters: 'rank' has no value" + tail);
  EXPECT_EQ(refusal("galore:=1"), "'galore:=1' is not a technique with its parameters: a value has no key" + tail);
  EXPECT_EQ(refusal("galore:rank=1,"),
            "'galore:rank=1,' is not a technique with its parameters: it ends with a comma" + tail);
  EXPECT_EQ(refusal("galore:path=\"x"),
            "'galore:path=\"x' is not a technique with its parameters: a quote is not closed" + tail);
  EXPECT_EQ(refusal("galore:path=\"x\"y"),
            "'galore:path=\"x\"y' is not a technique with its parameters: something follows a closed quote" + tail);
  EXPECT_NE(refusal("Ga/Lore").find("cannot be an id"), std::string::npos);
  EXPECT_NE(refusal("galore:" + std::string(100'000, 'x')).find("more than 65536"), std::string::npos);
}

TEST(Spec, HyperArrayIsWhatCreateTakes) {
  const Spec spec = parse("galore:rank=4,proj_type=left");
  const HyperArray hypers(spec);
  ASSERT_EQ(hypers.size(), 6u);
  EXPECT_STREQ(hypers.data()[0]->name, "rank");
  EXPECT_EQ(hypers.data()[0]->i, 4);
  EXPECT_EQ(hypers.data()[0]->s, nullptr);
  EXPECT_STREQ(hypers.data()[4]->s, "left");
  EXPECT_STREQ(hypers.data()[5]->s, "");
  EXPECT_TRUE(TN_HAS(hypers.data()[5], tn_hyper, s));
}

TEST(Schema, DefectsAreNamed) {
  const auto broken = [](const std::function<void(HyperInfo&)>& edit) {
    Schema schema = galore();
    edit(schema[0]);
    return sentence_of([&] { check_schema("galore", schema); });
  };
  EXPECT_NE(broken([](HyperInfo& h) { h.name = std::string("a b"); }).find("'a b' has a name"), std::string::npos);
  EXPECT_NE(broken([](HyperInfo& h) { h.name = std::string("scale"); }).find("declared twice"), std::string::npos);
  EXPECT_NE(broken([](HyperInfo& h) { h.type = 17; }).find("unknown type 17"), std::string::npos);
  EXPECT_NE(broken([](HyperInfo& h) { h.min = 2, h.max = 1; }).find("empty range"), std::string::npos);
  EXPECT_NE(broken([](HyperInfo& h) { h.min = std::numeric_limits<double>::quiet_NaN(); }).find("empty range"),
            std::string::npos);
  EXPECT_NE(broken([](HyperInfo& h) { h.type = TN_TYPE_CHOICE; }).find("lacks its choices"), std::string::npos);
  EXPECT_NE(broken([](HyperInfo& h) { h.default_value = std::string("0"); }).find("default '0', which is not"),
            std::string::npos);
}

}  // namespace
}  // namespace tenon
