// What commands print: one JSON document on standard output with --json, else lines for people.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>

#include "hosts/trainer/run/quantized_export.h"

namespace tenon::cli {

// Prints the document and a newline on standard output; a NaN or Inf in it becomes null.
void print_json(const nlohmann::json& document);

// Appends a text as JSON has it, quotes included. Documents of many thousands of rows are written row by row: building them first takes longer than
// everything else.
void append_json(std::string& to, std::string_view text);

// A line on standard error, for progress and remarks.
void remark(const std::string& line);

// Thousands separated by thin groups: 134515008 -> "134,515,008".
std::string with_commas(int64_t n);

// What quantize and merge say of the model that they wrote.
void print_written(const std::string& output, const trainer::QuantizedSize& size, bool json);

}  // namespace tenon::cli
