// The frame that both pages share.
#pragma once

#include <string>
#include <utility>
#include <vector>

namespace tenon::trainer::html {

// A whole document; `title` is text, `body` is HTML.
std::string page(const std::string& title, const std::string& body);

// A heading with what stands below it; empty when `content` is.
std::string section(const std::string& heading, const std::string& content);

// The large figures on top: text, with a line below.
std::string tile(const std::string& name, const std::string& value, const std::string& detail);

// Names and texts as a table of two columns; empty when there are none. Pairs without a text are left out.
std::string definitions(const std::vector<std::pair<std::string, std::string>>& pairs);

}  // namespace tenon::trainer::html
