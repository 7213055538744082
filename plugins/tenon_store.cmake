# What the build tree and the installation do with staged plugins, and how techniques are tested in the tree.
set(TENON_STORE ${CMAKE_BINARY_DIR}/lib/tenon)
if(TENON_TESTS)
  set(TENON_EMULATED_STORE ${CMAKE_BINARY_DIR}/lib/emulated)
endif()

# tenon_store(TARGET FOLDER NAME): the store FOLDER of the folders that tenon_stage listed under NAME, which a build-tree `tenon`, or a test,
# reads. Written by tenon-store, so that every object is tried and its digest recorded.
function(tenon_store target folder name)
  get_property(staged GLOBAL PROPERTY TENON_${name})
  get_property(targets GLOBAL PROPERTY TENON_${name}_TARGETS)
  set(manifests ${staged})
  list(TRANSFORM manifests APPEND /manifest.json)
  add_custom_command(OUTPUT ${folder}/installed
    COMMAND tenon-store install --store ${folder} ${staged}
    COMMAND ${CMAKE_COMMAND} -E touch ${folder}/installed
    DEPENDS ${manifests} ${targets} tenon-store
    COMMENT "Installing plugins into the store ${target}")
  add_custom_target(${target} ALL DEPENDS ${folder}/installed)
endfunction()

# The store of an installation; a store finds its files by relative paths and may be moved.
function(tenon_install_store)
  get_property(staged GLOBAL PROPERTY TENON_STAGED)
  list(JOIN staged "\" \"" folders)
  install(CODE "
    execute_process(COMMAND \"${CMAKE_RUNTIME_OUTPUT_DIRECTORY}/tenon-store\" install --store
                            \"\$ENV{DESTDIR}\${CMAKE_INSTALL_PREFIX}/lib/tenon\" \"${folders}\"
                    COMMAND_ERROR_IS_FATAL ANY)")
endfunction()

# tenon_plugin_test(ID sources... [LIBS libraries...]): the test <id>_test of a technique. It loads the very objects that ship, one per CPU
# level, and those of the emulated GPU, through sdk/testing/host.h.
function(tenon_plugin_test id)
  if(NOT TENON_TESTS)
    return()
  endif()
  cmake_parse_arguments(ARG "" "" "LIBS" ${ARGN})
  tenon_test(${id}_test ${ARG_UNPARSED_ARGUMENTS} LIBS tenon::sdk ${CMAKE_DL_LIBS} ${ARG_LIBS})
  target_include_directories(${id}_test PRIVATE ${CMAKE_SOURCE_DIR})
  set(paths "")
  foreach(level ${TENON_CPU_LEVELS})
    list(APPEND paths ${TENON_STAGING}/${id}/${id}.onednn.${level}.so)
    add_dependencies(${id}_test ${id}.onednn.${level})
  endforeach()
  if(TARGET ${id}.emulated.wave64)
    list(APPEND paths ${TENON_EMULATED_STORE}/staging/${id}/${id}.emulated.so ${TENON_EMULATED_STORE}/wave64/${id}/${id}.emulated.so)
    add_dependencies(${id}_test ${id}.emulated.wave32 ${id}.emulated.wave64)
  endif()
  list(JOIN paths "|" paths)
  target_compile_definitions(${id}_test PRIVATE TENON_PLUGIN_OBJECTS="${paths}")
endfunction()
