// Every rule of the safetensors header, broken one at a time: each has a sentence of its own.
#include <set>

#include "core/files/safetensors.h"
#include "support.h"

namespace tenon {
namespace {

using test::le;
using test::refusal;

// A file with `header` and `data_bytes` bytes of data.
std::string file_of(const std::string& header, size_t data_bytes) {
  return le<uint64_t>(header.size()) + header + std::string(data_bytes, 'd');
}

SafetensorsHeader parse(const std::string& file) {
  return parse_safetensors(as_bytes(file), "m.safetensors");
}

std::string tensor(const std::string& fields) {
  return "{\"t\":{" + fields + "}}";
}

constexpr char kGood[] = R"("dtype":"F32","shape":[2],"data_offsets":[0,8])";

struct Malformed {
  const char* name;
  std::string file;
  const char* part;  // Of the sentence.
};

std::vector<Malformed> corpus() {
  const std::string good = tensor(kGood);
  const std::string u8 = R"("dtype":"U8","shape":[4],"data_offsets":)";
  std::vector<Malformed> all = {
      {"three bytes", "abc", "the file has 3 bytes"},
      {"header length 2^62", le<uint64_t>(1ull << 62) + good, "claims 4611686018427387904 bytes but the file has"},
      {"header length 2^64-1", le<uint64_t>(UINT64_MAX) + good, "claims 18446744073709551615 bytes but the file has"},
      {"header one byte too long", le<uint64_t>(good.size() + 9) + good + "12345678", "but the file has"},
      {"empty header", file_of("", 0), "header is empty"},
      {"header of spaces", file_of("   ", 0), "starts with ' '"},
      {"leading space", file_of(" {}", 0), "starts with ' '"},
      {"array header", file_of("[]", 0), "starts with '['"},
      {"byte order mark", file_of("\xef\xbb\xbf{}", 0), "starts with '?'"},
      {"trailing newline", file_of("{}\n", 0), "ends with '?'"},
      {"unclosed", file_of("{\"t\":{", 0), "ends with '{'"},
      {"text after the object", file_of("{}x}", 0), "line 1, column 3"},
      {"NUL inside", file_of(std::string("{\0}", 3), 0), "NUL byte"},
      {"not UTF-8", file_of("{\"\xff\":{}}", 0), "not UTF-8"},
      {"two objects", file_of("{}{}", 0), "is not valid JSON"},
      {"too deep", file_of(R"({"t":{"shape":[[[1]]]}})", 0), "deeper than 4"},
      {"deep braces", file_of(std::string(1000, '{') + std::string(1000, '}'), 0), "is not valid JSON"},
      {"same tensor twice", file_of("{\"t\":{" + std::string(kGood) + "},\"t\":{" + kGood + "}}", 8),
       "'t' appears twice"},
      {"same field twice", file_of(tensor(R"("dtype":"U8","dtype":"U8","shape":[0],"data_offsets":[0,0])"), 0),
       "'dtype' appears twice"},
      {"metadata not an object", file_of(R"({"__metadata__":[1]})", 0), "__metadata__ is an array"},
      {"metadata value not a text", file_of(R"({"__metadata__":{"k":1}})", 0), "the value of 'k' in __metadata__"},
      {"tensor not an object", file_of(R"({"t":5})", 0), "described by a number"},
      {"no dtype", file_of(tensor(R"("shape":[2],"data_offsets":[0,8])"), 8), "no field 'dtype'"},
      {"no shape", file_of(tensor(R"("dtype":"F32","data_offsets":[0,8])"), 8), "no field 'shape'"},
      {"no offsets", file_of(tensor(R"("dtype":"F32","shape":[2])"), 8), "no field 'data_offsets'"},
      {"dtype not a text", file_of(tensor(R"("dtype":7,"shape":[2],"data_offsets":[0,8])"), 8),
       "the dtype of tensor 't' is a number"},
      {"unknown dtype", file_of(tensor(R"("dtype":"Q9","shape":[2],"data_offsets":[0,8])"), 8), "the dtype 'Q9'"},
      {"lower-case dtype", file_of(tensor(R"("dtype":"f32","shape":[2],"data_offsets":[0,8])"), 8), "the dtype 'f32'"},
      {"shape not an array", file_of(tensor(R"("dtype":"F32","shape":2,"data_offsets":[0,8])"), 8),
       "the shape of tensor 't' is a number"},
      {"negative size", file_of(tensor(R"("dtype":"F32","shape":[-4,4],"data_offsets":[0,8])"), 8), "holds -4"},
      {"fractional size", file_of(tensor(R"("dtype":"F32","shape":[2.5],"data_offsets":[0,8])"), 8), "holds 2.5"},
      {"size as a text", file_of(tensor(R"("dtype":"F32","shape":["2"],"data_offsets":[0,8])"), 8), "holds a text"},
      {"size 2^63", file_of(tensor(R"("dtype":"U8","shape":[9223372036854775808],"data_offsets":[0,8])"), 8),
       "holds 9223372036854775808"},
      {"size 2^64 read as a double",
       file_of(tensor(R"("dtype":"U8","shape":[18446744073709551616],"data_offsets":[0,8])"), 8), "holds 1.844"},
      {"shape overflow", file_of(tensor(R"("dtype":"F32","shape":[2147483648,2147483648,4],"data_offsets":[0,8])"), 8),
       "overflows 2^64"},
      {"overflow beside a zero",
       file_of(tensor(R"("dtype":"U8","shape":[4294967296,4294967296,0],"data_offsets":[0,0])"), 0), "overflows 2^64"},
      {"shape overflow to zero",
       file_of(tensor(R"("dtype":"U8","shape":[4294967296,4294967296],"data_offsets":[0,0])"), 0), "overflows 2^64"},
      {"offsets not an array", file_of(tensor(R"("dtype":"F32","shape":[2],"data_offsets":8)"), 8),
       "data_offsets of tensor 't' is a number"},
      {"one offset", file_of(tensor(R"("dtype":"F32","shape":[2],"data_offsets":[8])"), 8), "has 1 numbers"},
      {"three offsets", file_of(tensor(R"("dtype":"F32","shape":[2],"data_offsets":[0,8,9])"), 8), "has 3 numbers"},
      {"negative offset", file_of(tensor(R"("dtype":"F32","shape":[2],"data_offsets":[-8,0])"), 8),
       "data_offsets of tensor 't' holds -8"},
      {"reversed offsets", file_of(tensor(R"("dtype":"F32","shape":[2],"data_offsets":[64,0])"), 8),
       "before it begins"},
      {"fewer bytes than the shape", file_of(tensor(R"("dtype":"F32","shape":[3],"data_offsets":[0,8])"), 8),
       "needs 12 bytes"},
      {"bytes for an empty tensor", file_of(tensor(R"("dtype":"F32","shape":[0],"data_offsets":[0,8])"), 8),
       "needs 0 bytes"},
      {"half a byte", file_of(tensor(R"("dtype":"F4","shape":[3],"data_offsets":[0,2])"), 2), "12 bits as F4"},
      {"six-bit elements", file_of(tensor(R"("dtype":"F6_E2M3","shape":[3],"data_offsets":[0,3])"), 3),
       "18 bits as F6_E2M3"},
      {"hole at the start", file_of("{\"t\":{" + u8 + "[4,8]}}", 8), "4 bytes before tensor 't' belong to no tensor"},
      {"hole in the middle", file_of("{\"t\":{" + u8 + "[0,4]},\"u\":{" + u8 + "[6,10]}}", 10),
       "2 bytes before tensor 'u'"},
      {"overlap", file_of("{\"t\":{" + u8 + "[0,4]},\"u\":{" + u8 + "[2,6]}}", 6), "'u' begins at 2 and overlaps"},
      {"the same place twice", file_of("{\"t\":{" + u8 + "[0,4]},\"u\":{" + u8 + "[0,4]}}", 4),
       "'u' begins at 0 and overlaps"},
      {"cut data", file_of(good, 7), "ends at byte 8 of the data but the file holds 7"},
      {"offset past the end",
       file_of(tensor(R"("dtype":"U8","shape":[1125899906842624],"data_offsets":[0,1125899906842624])"), 8),
       "ends at byte 1125899906842624"},
      {"trailing bytes", file_of(good, 9), "the tensors end at byte 8 of the data but the file holds 9"},
      {"data without tensors", file_of("{}", 1), "the tensors end at byte 0"},
  };
  return all;
}

TEST(SafetensorsHeader, EveryBrokenRuleHasItsOwnSentence) {
  std::set<std::string> sentences;
  const std::vector<Malformed> all = corpus();
  for (const Malformed& bad : all) {
    SCOPED_TRACE(bad.name);
    const std::string sentence = refusal(TN_E_FORMAT, [&] { parse(bad.file); });
    EXPECT_HAS(sentence, "m.safetensors: ");
    EXPECT_HAS(sentence, bad.part);
    sentences.insert(sentence);
  }
  // Five pairs of cases break the same rule in the same way.
  EXPECT_GE(sentences.size(), all.size() - 5);
}

TEST(SafetensorsHeader, HeaderOverTheLimitOfTheFormat) {
  const std::string file = le<uint64_t>(100'000'001) + "{" + std::string(99'999'998, ' ') + "}" + " ";
  EXPECT_HAS(refusal(TN_E_FORMAT, [&] { parse(file); }), "the limit is 100000000");
}

TEST(SafetensorsHeader, EveryCutOfAGoodFileIsRefused) {
  const std::string file = file_of(R"({"__metadata__":{"k":"v"},"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},)"
                                   R"("b":{"dtype":"U8","shape":[3],"data_offsets":[4,7]}}   )",
                                   7);
  ASSERT_EQ(parse(file).tensors.size(), 2u);
  for (size_t size = 0; size < file.size(); ++size) {
    SCOPED_TRACE(size);
    refusal(TN_E_FORMAT, [&] { parse(file.substr(0, size)); });
  }
}

TEST(SafetensorsHeader, ReadsWhatIsLegal) {
  // Zero-size tensors at every position, rank 0, an unknown field, padding, offsets out of name order, nothing aligned.
  const std::string header =
      R"({"z0":{"dtype":"F64","shape":[0],"data_offsets":[0,0]},"b":{"dtype":"U8","shape":[3],"data_offsets":[0,3]},)"
      R"("z1":{"dtype":"F32","shape":[4611686018427387,0,1],"data_offsets":[3,3]},)"
      R"("extra":{"dtype":"BF16","shape":[],"data_offsets":[3,5],"note":1},)"
      R"("z2":{"dtype":"BOOL","shape":[2,0],"data_offsets":[5,5]},"__metadata__":{"format":"pt","é":"ü"}}  )";
  const SafetensorsHeader parsed = parse(file_of(header, 5));
  ASSERT_EQ(parsed.tensors.size(), 5u);
  std::string order;
  for (const TensorEntry& entry : parsed.tensors) order += entry.name + " ";
  EXPECT_EQ(order, "z0 b z1 extra z2 ");
  EXPECT_EQ(parsed.tensors[3].bytes, 2u);
  EXPECT_EQ(parsed.tensors[3].offset, 8 + header.size() + 3);
  EXPECT_TRUE(parsed.tensors[3].shape.empty());
  EXPECT_EQ(parsed.tensors[2].shape[0], 4611686018427387);
  EXPECT_EQ(parsed.metadata.at("é"), "ü");
  EXPECT_TRUE(parse(file_of("{}", 0)).tensors.empty());
}

}  // namespace
}  // namespace tenon
