// Mutations of bytes, lines, safetensors and protocol buffers. Those of JSON: mutate_json.cpp.
#include <algorithm>
#include <cstring>
#include <limits>

#include "tests/fuzz/fuzz.h"

namespace cbq::fuzz {
namespace {

constexpr size_t most_bytes = size_t{2} << 20;

/// Integers at which parsers go wrong: 0, -1, the ends of every width, powers of two, 10^8 (the
/// largest header of safetensors).
uint64_t interesting_integer(Random& random) {
  static const std::vector<uint64_t> fixed = {0,
                                              1,
                                              2,
                                              7,
                                              255,
                                              256,
                                              65535,
                                              65536,
                                              67108864,
                                              100000000,
                                              100000001,
                                              0x7fffffffu,
                                              0x80000000u,
                                              0xffffffffu,
                                              0x100000000u,
                                              0x7fffffffffffffffu,
                                              0x8000000000000000u,
                                              0xfffffffffffffff7u,
                                              0xfffffffffffffff8u,
                                              0xffffffffffffffffu};
  if (random.one_in(3)) return uint64_t{1} << random.below(64);
  return random.of(fixed);
}

/// A range [begin, begin + size) of at least one byte, small ones as often as large ones.
std::pair<size_t, size_t> any_range(size_t bytes, Random& random) {
  const size_t size = random.any_size(bytes);
  return {random.below(bytes - size + 1), size};
}

void flip_bits(std::string& bytes, Random& random) {
  const size_t count = random.any_size(8);
  for (size_t i = 0; i < count; ++i) {
    char& byte = bytes[random.below(bytes.size())];
    byte = static_cast<char>(byte ^ (1 << random.below(8)));
  }
}

void replace_bytes(std::string& bytes, Random& random) {
  static const std::string special =
      std::string("\0\n\r\t \"\\{}[]:,;=-+.*0123456789eE", 32) + "\x7f\x80\xc0\xed\xf5\xfe\xff";
  const size_t count = random.any_size(8);
  for (size_t i = 0; i < count; ++i) {
    bytes[random.below(bytes.size())] = random.one_in(2) ? static_cast<char>(random.below(256))
                                                         : special[random.below(special.size())];
  }
}

void overwrite_integer(std::string& bytes, Random& random) {
  const size_t width = size_t{1} << random.below(4);
  if (bytes.size() < width) return;
  size_t at = random.below(bytes.size() - width + 1);
  if (random.one_in(2)) at = at / width * width;  // fields are usually aligned
  uint64_t value = interesting_integer(random);
  if (random.one_in(4)) {  // slightly off
    std::memcpy(&value, bytes.data() + at, width);
    value += random.one_in(2) ? 1 : ~uint64_t{0};
  }
  if (random.one_in(8)) value = bytes.size() + random.below(17) - 8;
  std::memcpy(bytes.data() + at, &value, width);
}

void insert_bytes(std::string& bytes, Random& random) {
  std::string more(random.any_size(64), '\0');
  for (char& byte : more) byte = static_cast<char>(random.below(256));
  if (random.one_in(3)) more.assign(random.any_size(100000), more[0]);
  bytes.insert(random.below(bytes.size() + 1), more);
}

void duplicate_chunk(std::string& bytes, Random& random) {
  const auto [begin, size] = any_range(bytes.size(), random);
  const std::string chunk = bytes.substr(begin, size);
  const size_t copies = std::min(random.any_size(1000), most_bytes / 4 / size + 1);
  std::string more;
  more.reserve(copies * size);
  for (size_t i = 0; i < copies; ++i) more += chunk;
  bytes.insert(random.one_in(2) ? begin : random.below(bytes.size() + 1), more);
}

void splice(std::string& bytes, const std::string& other, Random& random) {
  if (other.empty()) return;
  const size_t keep = random.below(bytes.size() + 1);
  // Behind the same place, so that a layout of fixed offsets survives, or behind any.
  const size_t from = random.one_in(2) ? std::min(keep, other.size()) : random.below(other.size());
  bytes = bytes.substr(0, keep) + other.substr(from);
}

std::vector<std::string> lines_of(const std::string& text) {
  std::vector<std::string> lines;
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = std::min(text.find('\n', begin), text.size() - 1) + 1;
    lines.push_back(text.substr(begin, end - begin));
    begin = end;
  }
  return lines;
}

}  // namespace

std::string mutated_bytes(std::string bytes, const std::string& other, Random& random) {
  if (bytes.empty()) {
    insert_bytes(bytes, random);
    return bytes;
  }
  const auto [begin, size] = any_range(bytes.size(), random);
  switch (random.below(10)) {
    case 0:
      flip_bits(bytes, random);
      break;
    case 1:
      replace_bytes(bytes, random);
      break;
    case 2:
      bytes.resize(random.below(bytes.size()));
      break;
    case 3:
      insert_bytes(bytes, random);
      break;
    case 4:
      duplicate_chunk(bytes, random);
      break;
    case 5:
      bytes.erase(begin, size);
      break;
    case 6:
      splice(bytes, other, random);
      break;
    case 7: {  // move a chunk
      const std::string chunk = bytes.substr(begin, size);
      bytes.erase(begin, size);
      bytes.insert(random.below(bytes.size() + 1), chunk);
      break;
    }
    default:
      overwrite_integer(bytes, random);
  }
  return bytes;
}

std::string mutated_lines(const std::string& bytes, Random& random) {
  std::vector<std::string> lines = lines_of(bytes);
  if (lines.empty()) return "\n";
  const size_t at = random.below(lines.size());
  static const std::vector<std::string> odd = {
      "\n",     "\r\n",         "\r",       "\xef\xbb\xbf",       "\xed\xa0\x80\n",
      "\xff\n", "\xe2\x80\xa8", "\xc2\x85", std::string(1, '\0'), " \t\n"};
  switch (random.below(6)) {
    case 0:
      lines.erase(lines.begin() + static_cast<ptrdiff_t>(at));
      break;
    case 1: {
      const std::string line = lines[at];
      const size_t fitting = (size_t{2} << 20) / (line.size() + 1);  // the text stays below 2 MiB
      const size_t copies = std::min(random.any_size(2000), fitting);
      lines.insert(lines.begin() + static_cast<ptrdiff_t>(at), copies, line);
      break;
    }
    case 2:
      std::swap(lines[at], lines[random.below(lines.size())]);
      break;
    case 3:
      for (std::string& line : lines) {
        if (line.ends_with('\n')) line.insert(line.size() - 1, "\r");
      }
      break;
    case 4:
      lines[at].insert(random.below(lines[at].size() + 1), random.of(odd));
      break;
    default: {  // a word becomes a long one
      const std::string word(random.any_size(100000), " a.0[(,=\"-+*"[random.below(12)]);
      lines[at].insert(random.below(lines[at].size() + 1), word);
    }
  }
  std::string text;
  for (const std::string& line : lines) text += line;
  return text;
}

// ---- safetensors --------------------------------------------------------------------------------

std::string safetensors_header(const std::string& bytes) {
  uint64_t size = 0;
  if (bytes.size() < 8) return "";
  std::memcpy(&size, bytes.data(), 8);
  return bytes.substr(8, size);
}

std::string with_safetensors_header(const std::string& bytes, const std::string& header) {
  const size_t data = std::min(bytes.size(), 8 + safetensors_header(bytes).size());
  const uint64_t size = header.size();
  std::string result(8, '\0');
  std::memcpy(result.data(), &size, 8);
  return result + header + bytes.substr(data);
}

std::string mutated_safetensors(const std::string& bytes, Random& random) {
  if (bytes.size() < 8) return mutated_bytes(bytes, "", random);
  std::string result = bytes;
  const std::string header = safetensors_header(bytes);
  switch (random.below(8)) {
    case 0: {  // the header's length
      uint64_t size = header.size() + random.below(17) - 8;
      if (random.one_in(2)) size = interesting_integer(random);
      std::memcpy(result.data(), &size, 8);
      return result;
    }
    case 1:  // more or less data than the header says
      if (random.one_in(2)) return result + std::string(random.any_size(4096), '\0');
      result.resize(8 + header.size() + random.below(result.size() - 7 - header.size()));
      return result;
    case 2:
      return with_safetensors_header(bytes, mutated_bytes(header, "", random));
    default:
      return with_safetensors_header(bytes, mutated_json(header, random));
  }
}

// ---- protocol buffers ---------------------------------------------------------------------------

namespace {

struct Field {
  std::string tag;    // as it stands in the file
  uint64_t wire = 0;  // 0: integer, 1: 8 bytes, 2: length and bytes, 5: 4 bytes
  std::string value;  // without the length
};

bool read_varint(const std::string& bytes, size_t* at, uint64_t* value) {
  *value = 0;
  for (int shift = 0; *at < bytes.size() && shift < 64; shift += 7) {
    const auto byte = static_cast<unsigned char>(bytes[(*at)++]);
    *value |= uint64_t{byte & 127u} << shift;
    if (byte < 128) return true;
  }
  return false;
}

/// The fields up to the first one that makes no sense; `rest` is what stands from there on.
std::vector<Field> fields_of(const std::string& bytes, std::string* rest) {
  std::vector<Field> fields;
  size_t at = 0, good = 0;
  for (uint64_t tag = 0; read_varint(bytes, &at, &tag); good = at) {
    Field field{bytes.substr(good, at - good), tag & 7, ""};
    uint64_t size = field.wire == 1 ? 8 : 4;
    if (field.wire == 0) {
      const size_t begin = at;
      if (!read_varint(bytes, &at, &size)) break;
      field.value = bytes.substr(begin, at - begin);
    } else {
      if (field.wire == 2 && !read_varint(bytes, &at, &size)) break;
      if (field.wire > 5 || field.wire == 3 || field.wire == 4 || size > bytes.size() - at) break;
      field.value = bytes.substr(at, size);
      at += size;
    }
    fields.push_back(std::move(field));
  }
  *rest = bytes.substr(good);
  return fields;
}

std::string bytes_of(const Field& field) {
  return field.tag + (field.wire == 2 ? varint(field.value.size()) : "") + field.value;
}

}  // namespace

std::string varint(uint64_t value) {
  std::string bytes;
  for (; value >= 128; value >>= 7) bytes += static_cast<char>(value | 128);
  return bytes + static_cast<char>(value);
}

std::string mutated_protobuf(const std::string& bytes, Random& random) {
  std::string rest, result;
  std::vector<Field> fields = fields_of(bytes, &rest);
  if (fields.empty()) return mutated_bytes(bytes, "", random);
  // The settings of a sentencepiece model stand behind thousands of pieces.
  const size_t at = random.one_in(3)
                        ? fields.size() - 1 - random.below(std::min<size_t>(fields.size(), 3))
                        : random.below(fields.size());
  Field& field = fields[at];
  std::string changed;  // instead of the field
  switch (random.below(7)) {
    case 0:  // another length
      changed = field.tag + varint(interesting_integer(random)) + field.value;
      break;
    case 1:
      field.tag = varint(random.one_in(2) ? interesting_integer(random)
                                          : random.below(64) << 3 | random.below(8));
      changed = bytes_of(field);
      break;
    case 2:
      field.value = field.wire == 0 ? varint(interesting_integer(random))
                                    : mutated_bytes(field.value, "", random);
      changed = bytes_of(field);
      break;
    case 3: {
      const size_t copies = random.any_size(5000);
      for (size_t i = 0; i < copies; ++i) changed += bytes_of(field);
      break;
    }
    case 4:
      break;  // left out
    default:
      field.value = field.wire == 2 ? mutated_protobuf(field.value, random)
                                    : varint(interesting_integer(random));
      changed = bytes_of(field);
  }
  for (size_t i = 0; i < fields.size(); ++i) result += i == at ? changed : bytes_of(fields[i]);
  return result + rest;
}

// ---- all together -------------------------------------------------------------------------------

std::string mutated(const std::string& bytes, const std::string& other, const FuzzTarget& target,
                    Random& random) {
  std::string result = bytes;
  const size_t rounds = random.any_size(4);
  for (size_t i = 0; i < rounds; ++i) {
    if (target.damage && random.one_in(2)) {
      result = target.damage(result, random);
    } else if (target.format == Format::binary || random.one_in(3)) {
      result = mutated_bytes(std::move(result), other, random);
    } else if (target.format == Format::text || random.one_in(10)) {
      result = mutated_lines(result, random);
    } else if (target.format == Format::json) {
      result = mutated_json(result, random);
    } else if (target.format == Format::safetensors) {
      result = mutated_safetensors(result, random);
    } else {
      result = mutated_protobuf(result, random);
    }
    if (result.size() > most_bytes) result.resize(most_bytes);
  }
  return result;
}

}  // namespace cbq::fuzz
