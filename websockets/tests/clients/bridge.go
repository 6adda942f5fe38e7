// gorilla/websocket, driven by lines of JSON as described in bridge.py.
package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/gorilla/websocket"
)

const ping, pong = time.Second, 1900 * time.Millisecond // from ping to ping, from pong to pong

type command struct {
	Socket    int
	Open      string
	Protocols []string
	Send      string
	Close     bool
}

func main() {
	sessions := map[int]chan command{}
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var next command
		if err := json.Unmarshal(lines.Bytes(), &next); err != nil {
			panic(err)
		}
		if next.Open != "" {
			sessions[next.Socket] = make(chan command, 64)
			go run(next, sessions[next.Socket])
		} else {
			sessions[next.Socket] <- next
		}
	}
}

func run(opened command, commands chan command) {
	dialer := websocket.Dialer{Subprotocols: opened.Protocols}
	conn, _, err := dialer.Dial(opened.Open, nil)
	if err != nil {
		tell(opened.Socket, "closed", nil)
		return
	}
	defer conn.Close()
	tell(opened.Socket, "open", true)
	go write(conn, commands)
	conn.SetReadDeadline(time.Now().Add(pong))
	conn.SetPongHandler(func(string) error { return conn.SetReadDeadline(time.Now().Add(pong)) })
	for {
		_, text, err := conn.ReadMessage()
		var end *websocket.CloseError
		if errors.As(err, &end) && end.Code != websocket.CloseAbnormalClosure {
			tell(opened.Socket, "closed", end.Code)
			return
		} else if err != nil {
			tell(opened.Socket, "closed", nil)
			return
		}
		tell(opened.Socket, "text", string(text))
	}
}

// Writes commands and pings until the connection is lost.
func write(conn *websocket.Conn, commands chan command) {
	for pings := time.NewTicker(ping); ; {
		var err error
		select {
		case <-pings.C:
			err = conn.WriteMessage(websocket.PingMessage, nil)
		case next := <-commands:
			if next.Close {
				conn.Close()
				return
			}
			err = conn.WriteMessage(websocket.TextMessage, []byte(next.Send))
		}
		if err != nil {
			return
		}
	}
}

func tell(socket int, name string, value any) {
	line, err := json.Marshal(map[string]any{"socket": socket, name: value})
	if err != nil {
		panic(err)
	}
	fmt.Println(string(line))
}
