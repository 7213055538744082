// The container of a package: a plain ustar archive of plain files, equal byte for byte wherever it is made.
#pragma once

#include <string>
#include <vector>

namespace tenon {

// Writes `names`, files of `folder`, in this order. The archive appears whole or not at all.
void write_archive(const std::string& archive, const std::string& folder, const std::vector<std::string>& names);

// Unpacks into `folder`, which is empty and which nobody else writes. The archive is a stranger's: everything that
// write_archive does not make is refused with one sentence (links, folders, other names, names twice, sizes beyond
// most_bytes, what is cut short, bytes behind the end).
void read_archive(const std::string& archive, const std::string& folder);

}  // namespace tenon
