// Command pause is the first process of every pod: it holds the pod's namespaces open and waits to be told to end.
// In pods that share one process namespace it is also process 1, so it buries the processes whose parents died.
package main

import (
	"os"
	"os/signal"
	"syscall"
)

func main() {
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGCHLD)
	for received := range signals {
		if received != syscall.SIGCHLD {
			os.Exit(0)
		}
		// Several children may have ended for one signal.
		for {
			child, err := syscall.Wait4(-1, nil, syscall.WNOHANG, nil)
			if err != syscall.EINTR && child <= 0 {
				break
			}
		}
	}
}
