module rung.dev/devcluster/pause

go 1.21
