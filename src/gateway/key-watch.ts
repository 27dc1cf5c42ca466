import type { Admission } from "./admission.ts";

/** Times in a row that nobody knows whether a key is accepted. */
const unknownMax = 2;

/** Asks whether the key of a call that goes on is still accepted. */
export class KeyWatch {
  readonly #admission: Admission;
  readonly #sink: { onKeyRefused(): void };
  #isAsking = false;
  #unknown = 0;

  /** The sink is told whenever it is not, or nobody knows. */
  constructor(admission: Admission, sink: { onKeyRefused(): void }) {
    this.#admission = admission;
    this.#sink = sink;
  }

  /** Ask. */
  look(): void {
    if (this.#isAsking) {
      return;
    }
    const { deps, key } = this.#admission;
    const answer = deps.verifier.isAccepted(key);
    if (!(answer instanceof Promise)) {
      this.#heed(answer);
      return;
    }
    this.#isAsking = true;
    answer.then(
      (isAccepted) => this.#heed(isAccepted),
      () => {
        this.#unknown += 1;
        this.#isAsking = false;
        if (this.#unknown >= unknownMax) {
          this.#sink.onKeyRefused();
        }
      },
    );
  }

  #heed(isAccepted: boolean): void {
    this.#isAsking = false;
    this.#unknown = 0;
    if (!isAccepted) {
      this.#sink.onKeyRefused();
    }
  }
}
