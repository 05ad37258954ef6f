# Run by the build (ProgramVersion.cmake): writes FOLDER/program_version.cpp for the files that
# FOLDER/program_version.sources lists, relative to ROOT.
file(STRINGS ${FOLDER}/program_version.sources sources)
file(READ ${FOLDER}/program_version.how all)
file(READ ${FOLDER}/program_version.facts facts)
foreach(source ${sources})
  file(SHA256 ${ROOT}/${source} hash)
  string(APPEND all "${source} ${hash}\n")
endforeach()
string(SHA256 digest "${all}")
string(SUBSTRING ${digest} 0 12 short)
file(WRITE ${FOLDER}/program_version.cpp
     "#include \"tensor/runtime/program_version.h\"\n\nstd::string cbq::program_version() { return \"${VERSION}+${short}\"; }\n"
     "std::string cbq::build_facts() { return R\"facts(${facts})facts\"; }\n")
