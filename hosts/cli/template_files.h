// The files that `tenon new-plugin` writes, as they lie in templates/ and in the vendors' examples.
#pragma once

namespace tenon::cli {

struct TemplateFile {
  const char *name, *text;
};

// Ends with a null name.
extern const TemplateFile kTemplateFiles[];

}  // namespace tenon::cli
