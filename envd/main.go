// Command envd is the guest agent of a Wrenn sandbox: it runs programs and carries files for whoever holds the
// sandbox's token.
package main

import (
	"context"
	"flag"
	"fmt"
	"log"
	"net"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"time"

	"golang.org/x/sys/unix"

	"github.com/wrenn-dev/wrenn/envd/internal/guest"
	"github.com/wrenn-dev/wrenn/envd/internal/httpd"
	"github.com/wrenn-dev/wrenn/envd/internal/reaper"
	"github.com/wrenn-dev/wrenn/envd/internal/rehearsal"
)

// rehearsalLimit is ten times what an emulated guest takes.
const rehearsalLimit = 10 * time.Second

const usage = `usage: envd COMMAND

  init                                   be PID 1: run "envd serve", reap orphans, stop the machine on SIGTERM
  serve [--listen ADDRESS] [--no-guest]  serve on ADDRESS (default 0.0.0.0:49983)
  version                                print the version of the protocol
`

func main() {
	log.SetFlags(0)
	log.SetPrefix("envd: ")
	if err := run(os.Args[1:]); err != nil {
		log.Fatal(err)
	}
}

func run(arguments []string) error {
	command := ""
	if len(arguments) > 0 {
		command, arguments = arguments[0], arguments[1:]
	}
	switch command {
	case "init":
		return initialise(arguments)
	case "serve":
		return serve(arguments)
	case "version":
		fmt.Println(httpd.Version)
		return nil
	}
	fmt.Fprint(os.Stderr, usage)
	os.Exit(2)
	return nil
}

// initialise passes its arguments on to `envd serve`.
func initialise(arguments []string) error {
	// the collector's next run would be of no use to a process that only waits
	debug.SetGCPercent(-1)
	debug.SetMemoryLimit(8 << 20)
	cgroups, err := guest.SetupCgroups(guest.CgroupRoot)
	if err == nil {
		err = cgroups.Join()
	}
	if err != nil {
		log.Printf("cgroups: %v", err)
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	// By the link of the process, not by its name: root in the guest may remove the file.
	return reaper.Run("/proc/self/exe", append([]string{self, "serve"}, arguments...))
}

func serve(arguments []string) error {
	flags := flag.NewFlagSet("envd serve", flag.ExitOnError)
	listen := flags.String("listen", "0.0.0.0:49983", "address to serve on")
	alone := flags.Bool("no-guest", false,
		"leave the machine as it is: no hostname, clock, machine-id, random pool, cgroups, memory priority")
	if err := flags.Parse(arguments); err != nil {
		return err
	}
	// Small rather than fast: the guest's memory belongs to the user's programs.
	debug.SetGCPercent(50)
	debug.SetMemoryLimit(64 << 20)
	// With one processor two as well: a fork keeps its own until the child has got to its exec, and the rest of envd shall
	// not stand still meanwhile.
	runtime.GOMAXPROCS(max(2, runtime.NumCPU()))
	unix.Umask(0o022)
	machine, err := open(*alone)
	if err != nil {
		return err
	}
	if !*alone && !machine.State().Initialised {
		// Before the port is open: whoever finds envd answering may snapshot the guest at once.
		if err := rehearsal.Run(machine, rehearsalLimit); err != nil {
			log.Printf("rehearsal: %v", err)
		}
	}
	// Probes of idle connections are rare: each one wakes an idle machine.
	config := net.ListenConfig{KeepAliveConfig: net.KeepAliveConfig{
		Enable: true, Idle: 2 * time.Minute, Interval: 30 * time.Second, Count: 3,
	}}
	listener, err := config.Listen(context.Background(), "tcp", *listen)
	if err != nil {
		return err
	}
	if *alone {
		log.Printf("serving on %s", listener.Addr()) // tests listen on port 0
	}
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGTERM, unix.SIGINT)
	defer stop()
	if cgroups := machine.Cgroups(); cgroups != nil {
		go func() {
			if err := cgroups.Relieve(ctx); err != nil && ctx.Err() == nil {
				log.Printf("memory pressure: %v", err) // a kernel without it
			}
		}()
	}
	return httpd.New(machine).Serve(ctx, listener)
}

func open(alone bool) (*guest.Guest, error) {
	if alone {
		return guest.OpenUntouched(nil), nil
	}
	return guest.Open()
}
