#include "core/files/json.h"

#include <limits>
#include <nlohmann/json.hpp>

#include "core/files/bytes.h"
#include "support.h"

namespace tenon {
namespace {

using test::refusal;
using test::ScratchFolder;

std::string parse_refusal(const std::string& text, const JsonLimits& limits = {}) {
  return refusal(TN_E_FORMAT, [&] { parse_json(text, "config.json", limits); });
}

TEST(Json, ParsesEveryKindOfValue) {
  const Json value = parse_json(R"({"a":[1,-2,3.5,true,false,null,"é\n"],"b":{},"c":18446744073709551615})", "x");
  EXPECT_EQ(value["a"][0], 1);
  EXPECT_EQ(value["a"][1], -2);
  EXPECT_EQ(value["a"][2], 3.5);
  EXPECT_TRUE(value["a"][5].is_null());
  EXPECT_EQ(value["a"][6], "é\n");
  EXPECT_EQ(value["c"].get<uint64_t>(), UINT64_MAX);
  EXPECT_EQ(parse_json("[[1],[2,[3]]]", "x").dump(), "[[1],[2,[3]]]");
  EXPECT_EQ(parse_json(" 7 ", "x"), 7);
}

TEST(Json, SyntaxErrorsSayWhere) {
  EXPECT_HAS(parse_refusal("{\n  \"a\": 1,\n  oops\n}"), "line 3, column 3");
  EXPECT_HAS(parse_refusal("{]"), "line 1, column 2 is not valid JSON near '{]'");
  for (const char* cut : {"", "{\"hidden", "[1,", "{\"a\":"}) EXPECT_HAS(parse_refusal(cut), "ends too early");
  EXPECT_HAS(parse_refusal("[1] 2"), "line 1, column 5");
  EXPECT_HAS(parse_refusal("[\"a\x01z\"]"), "line 1, column 4");
}

TEST(Json, ByteErrorsSayWhich) {
  EXPECT_HAS(parse_refusal("[\"\xff\"]"), "not UTF-8");
  EXPECT_HAS(parse_refusal("[\"\xed\xa0\x80\"]"), "not UTF-8");
  EXPECT_HAS(parse_refusal(std::string("{}\0{}", 5)), "NUL byte");
  EXPECT_HAS(parse_refusal("[1e999]"), "does not fit a double");
}

TEST(Json, DepthIsBoundedWithoutRecursion) {
  const std::string sentence = parse_refusal(std::string(200000, '['));
  EXPECT_HAS(sentence, "config.json");
  EXPECT_HAS(sentence, "deeper than 64");
  EXPECT_HAS(parse_refusal([] {
               std::string text;
               for (int i = 0; i < 100000; ++i) text += "{\"a\":";
               return text;
             }()),
             "deeper than 64");
  EXPECT_NO_THROW(parse_json(std::string(64, '[') + std::string(64, ']'), "x"));
}

TEST(Json, SizeAndCountAreBounded) {
  JsonLimits limits;
  limits.max_bytes = 10;
  EXPECT_HAS(parse_refusal("[1,2,3,4,5,6]", limits), "13 bytes and the limit is 10");
  limits = {};
  limits.max_values = 4;
  EXPECT_HAS(parse_refusal("[1,2,3,4]", limits), "more than 4 values");
  EXPECT_NO_THROW(parse_json("[1,2,3]", "x", limits));
}

TEST(Json, DuplicateKeysAreRefusedWhenAsked) {
  JsonLimits limits;
  limits.unique_keys = true;
  EXPECT_HAS(parse_refusal(R"({"a":1,"b":{"a":2},"a":3})", limits), "'a' appears twice");
  EXPECT_EQ(parse_json(R"({"a":1,"a":3})", "x")["a"], 3);
}

TEST(Json, NamesInErrorsCannotBreakTheLine) {
  JsonLimits limits;
  limits.unique_keys = true;
  const std::string key = "x\\n\\u0007" + std::string(500, 'k');
  const std::string sentence = parse_refusal("{\"" + key + "\":1,\"" + key + "\":2}", limits);
  EXPECT_LT(sentence.size(), 300u);
  EXPECT_EQ(quote_name("a\nb\x7f\xff"
                       "é"),
            "'a?b??é'");
}

TEST(Json, FilesRoundTrip) {
  ScratchFolder folder;
  write_json_file(folder / "a.json", Json{{"k", {1, 2}}});
  EXPECT_EQ(read_json_file(folder / "a.json")["k"][1], 2);
  EXPECT_EQ(test::read_text(folder / "a.json").back(), '\n');
  refusal(TN_E_ARGUMENT, [&] { write_json_file(folder / "b.json", Json("\xff")); });
  EXPECT_FALSE(std::filesystem::exists(folder / "b.json"));
  EXPECT_HAS(refusal(TN_E_NOT_FOUND, [&] { read_json_file(folder / "none.json"); }), "none.json");
}

TEST(JsonGetters, TakeWhatFits) {
  const Json object = parse_json(R"({"i":8192,"whole":8192.0,"d":0.5,"t":true,"s":"x","n":null,"o":{},"l":[]})", "c");
  EXPECT_EQ(get_int(object, "i", 1, 8192, "c"), 8192);
  EXPECT_EQ(get_int(object, "whole", 1, 8192, "c"), 8192);
  EXPECT_EQ(get_double(object, "i", 0, 1e9, "c"), 8192.0);
  EXPECT_EQ(get_double(object, "d", 0, 1, "c"), 0.5);
  EXPECT_TRUE(get_bool(object, "t", "c"));
  EXPECT_EQ(get_string(object, "s", "c"), "x");
  EXPECT_TRUE(get_object(object, "o", "c").empty());
  EXPECT_TRUE(get_array(object, "l", "c").empty());
  for (const char* absent : {"n", "none"}) {
    EXPECT_FALSE(find_int(object, absent, 0, 1, "c"));
    EXPECT_FALSE(find_double(object, absent, 0, 1, "c"));
    EXPECT_FALSE(find_bool(object, absent, "c"));
    EXPECT_FALSE(find_string(object, absent, "c"));
    EXPECT_EQ(find_object(object, absent, "c"), nullptr);
    EXPECT_EQ(find_array(object, absent, "c"), nullptr);
    EXPECT_HAS(refusal(TN_E_NOT_FOUND, [&] { get_int(object, absent, 0, 1, "c"); }), "missing");
    refusal(TN_E_NOT_FOUND, [&] { get_string(object, absent, "c"); });
    refusal(TN_E_NOT_FOUND, [&] { get_object(object, absent, "c"); });
  }
}

TEST(JsonGetters, NumbersOutOfRangeAreNamed) {
  const Json object =
      parse_json(R"({"zero":0,"big":1099511627776,"half":0.5,"huge":18446744073709551615,"e30":1e30,"s":"64"})", "c");
  const auto int_refusal = [&](const char* key) {
    return refusal(TN_E_FORMAT, [&] { get_int(object, key, 1, 65536, "config.json"); });
  };
  EXPECT_HAS(int_refusal("zero"), "config.json: 'zero' must be a whole number from 1 to 65536 but is 0");
  EXPECT_HAS(int_refusal("big"), "1099511627776");
  EXPECT_HAS(int_refusal("half"), "0.5");
  EXPECT_HAS(int_refusal("huge"), "18446744073709551615");
  EXPECT_HAS(int_refusal("e30"), "1e+30");
  EXPECT_HAS(int_refusal("s"), "the text '64'");
  EXPECT_HAS(refusal(TN_E_FORMAT, [&] { get_double(object, "half", 1, 2, "c"); }), "from 1.0 to 2.0");
  const Json nan = {{"x", std::numeric_limits<double>::quiet_NaN()}};
  refusal(TN_E_FORMAT, [&] { get_double(nan, "x", -1e300, 1e300, "c"); });
}

TEST(JsonGetters, WrongTypesAreNamed) {
  const Json object = parse_json(R"({"o":{},"l":[1],"i":1})", "c");
  EXPECT_HAS(refusal(TN_E_FORMAT, [&] { get_bool(object, "i", "c"); }), "true or false");
  EXPECT_HAS(refusal(TN_E_FORMAT, [&] { get_string(object, "l", "c"); }), "an array");
  EXPECT_HAS(refusal(TN_E_FORMAT, [&] { get_array(object, "o", "c"); }), "an object");
  EXPECT_HAS(refusal(TN_E_FORMAT, [&] { get_object(object, "i", "c"); }), "must be an object but is 1");
  EXPECT_HAS(refusal(TN_E_FORMAT, [&] { get_int(object["l"], "k", 0, 1, "c"); }), "JSON object");
}

}  // namespace
}  // namespace tenon
