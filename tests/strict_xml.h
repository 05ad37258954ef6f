// A strict reader of XML for tests: what it accepts is well-formed (XML 1.0, without a document
// type and without comments).
#pragma once

#include <algorithm>
#include <cctype>
#include <map>
#include <set>
#include <stdexcept>
#include <string>
#include <vector>

namespace cbq {

/// Element name -> how often it occurs. Throws std::runtime_error, naming the place, for anything
/// that a parser of XML would refuse.
class StrictXml {
 public:
  explicit StrictXml(const std::string& text) : text_(text) { read(); }

  std::map<std::string, int> elements;
  std::string characters;  // of all elements, entities replaced

 private:
  [[noreturn]] void refuse(const std::string& why) const {
    throw std::runtime_error(why + " at: " + text_.substr(at_, 60));
  }
  bool starts(const std::string& word) const { return text_.compare(at_, word.size(), word) == 0; }
  void blanks() {
    while (at_ < text_.size() && (text_[at_] == ' ' || text_[at_] == '\n')) ++at_;
  }
  std::string name() {
    std::string word;
    const auto part = [](char c) {
      return std::isalnum(static_cast<unsigned char>(c)) || c == '-';
    };
    while (at_ < text_.size() && part(text_[at_])) word += text_[at_++];
    if (word.empty() || !std::isalpha(static_cast<unsigned char>(word[0]))) refuse("no name");
    return word;
  }
  /// Characters up to `end`, entities replaced.
  std::string data(char end) {
    std::string out;
    while (at_ < text_.size() && text_[at_] != end) {
      const char c = text_[at_];
      if (c == '<' || (c == '>' && end == '<')) refuse("a bracket");
      if (static_cast<unsigned char>(c) < 0x20 && c != '\n') refuse("a control character");
      if (c != '&') {
        out += c;
        ++at_;
        continue;
      }
      static const std::map<std::string, char> entities = {
          {"&lt;", '<'}, {"&gt;", '>'}, {"&amp;", '&'}, {"&quot;", '"'}, {"&#39;", '\''}};
      const auto entity = std::find_if(entities.begin(), entities.end(),
                                       [&](const auto& e) { return starts(e.first); });
      if (entity == entities.end()) refuse("an unknown entity");
      out += entity->second;
      at_ += entity->first.size();
    }
    return out;
  }
  void tag() {
    ++at_;  // <
    if (starts("/")) {
      ++at_;
      const std::string closed = name();
      if (open_.empty() || open_.back() != closed) refuse("wrong end of " + closed);
      open_.pop_back();
    } else {
      const std::string element = name();
      ++elements[element];
      std::set<std::string> seen;
      for (blanks(); !starts(">") && !starts("/>"); blanks()) {
        const std::string attribute = name();
        if (!seen.insert(attribute).second) refuse("attribute " + attribute + " twice");
        if (!starts("=\"")) refuse("no value of " + attribute);
        at_ += 2;
        data('"');
        if (!starts("\"")) refuse("an open value");
        ++at_;
      }
      if (starts("/")) {
        ++at_;
      } else {
        open_.push_back(element);
      }
    }
    if (!starts(">")) refuse("an open tag");
    ++at_;
  }
  void read() {
    if (starts("<?xml")) at_ = text_.find("?>") + 2;
    int roots = 0;
    for (blanks(); at_ < text_.size(); open_.empty() ? blanks() : void()) {
      if (text_[at_] == '<') {
        if (open_.empty() && !starts("</")) ++roots;
        tag();
      } else if (open_.empty()) {
        refuse("text outside the root");
      } else {
        characters += data('<');
      }
    }
    if (!open_.empty()) refuse("no end of " + open_.back());
    if (roots != 1) refuse(std::to_string(roots) + " roots");
  }

  const std::string& text_;
  size_t at_ = 0;
  std::vector<std::string> open_;
};

}  // namespace cbq
