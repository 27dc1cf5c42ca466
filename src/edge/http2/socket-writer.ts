import type { Socket } from "node:net";
import type { Output } from "./output.ts";

/** Told when bytes were handed to the system, or why they could not be. */
export type OnWritten = (error?: Error | null) => void;

/** Bytes that may wait to be written before replies have to. */
export const outputBytesMax = 256 * 1024;

/** Bytes that the socket may hold before nothing more is read. */
const backlogBytesMax = 1024 * 1024;

/** Writes what an output has gathered to a socket, once all that has arrived has been looked at. */
export class SocketWriter {
  readonly #socket: Socket;
  readonly #output: Output;
  readonly #onTurn: () => void;
  #onceWritten: OnWritten[] = [];
  #isScheduled = false;
  #isSocketFull = false;

  /** `onTurn` is told after each write, and when a full socket has room again. */
  constructor(socket: Socket, output: Output, onTurn: () => void) {
    this.#socket = socket;
    this.#output = output;
    this.#onTurn = onTurn;
    socket.on("drain", () => this.#onDrain());
  }

  /** Whether replies have to wait. */
  get isFull(): boolean {
    return this.#isSocketFull || this.#output.size >= outputBytesMax;
  }

  /** Have a turn soon. */
  schedule(): void {
    if (!this.#isScheduled) {
      this.#isScheduled = true;
      setImmediate(takeTurn, this);
    }
  }

  /** Tell of it when all that has gathered so far is written. */
  onceWritten(listener: OnWritten): void {
    this.#onceWritten.push(listener);
  }

  takeTurn(): void {
    this.#isScheduled = false;
    this.write();
    this.#onTurn();
  }

  /** Write now. */
  write(): void {
    const parts = this.#output.take();
    const socket = this.#socket;
    if (parts.length === 0 || !socket.writable) {
      return;
    }
    const last = parts.pop() as Uint8Array;
    if (parts.length > 0) {
      socket.cork();
      for (const part of parts) {
        socket.write(part);
      }
    }
    this.#isSocketFull = !socket.write(last, this.#takeListeners());
    if (parts.length > 0) {
      socket.uncork();
    }
    if (socket.writableLength > backlogBytesMax) {
      socket.pause();
    }
  }

  #takeListeners(): OnWritten | undefined {
    const listeners = this.#onceWritten;
    if (listeners.length === 0) {
      return undefined;
    }
    this.#onceWritten = [];
    return (error) => {
      for (const listener of listeners) {
        listener(error);
      }
    };
  }

  #onDrain(): void {
    this.#isSocketFull = false;
    if (this.#socket.isPaused()) {
      this.#socket.resume();
    }
    this.#onTurn();
  }
}

function takeTurn(writer: SocketWriter): void {
  writer.takeTurn();
}
