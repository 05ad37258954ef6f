// A reader of sealed files refuses damage by its checksum, and the parser behind the checksum would
// never meet it. Targets therefore give a damaged file the checksum of its new contents.
#pragma once

#include <filesystem>

namespace cbq::fuzz {

// Neither function changes a file that is too damaged to be given a checksum.
void reseal_safetensors(const std::filesystem::path& file);
void reseal_json(const std::filesystem::path& file);

}  // namespace cbq::fuzz
