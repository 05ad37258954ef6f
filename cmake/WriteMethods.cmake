# Run by the build (Methods.cmake): writes FOLDER/methods.cpp with the texts of the files that FOLDER/methods.list names,
# relative to ROOT.
file(STRINGS ${FOLDER}/methods.list methods)
set(entries "")
foreach(method ${methods})
  cmake_path(GET method STEM LAST_ONLY name)
  file(READ ${ROOT}/${method} text)
  string(APPEND entries "      {\"${name}\", R\"method(${text})method\"},\n")
endforeach()
file(WRITE ${FOLDER}/methods.cpp
     "#include \"cbq/methods.h\"\n\n"
     "std::span<const cbq::EmbeddedMethod> cbq::embedded_methods() {\n"
     "  static constexpr EmbeddedMethod all[] = {\n${entries}  };\n"
     "  return all;\n"
     "}\n")
