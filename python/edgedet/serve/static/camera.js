// Frames of a camera, one at a time: the next one is taken when the one before is done with, those between are skipped.

const QUALITY = 0.85; // of JPEG
const WIDTH = 960; // of frames, wished for; more is only made smaller again by the server
const SECONDS = 2; // over which frames are counted

const MEANING = {
  NotAllowedError: ["The camera may not be used.", "Allow it for this page in the browser's address bar, then try again."],
  NotFoundError: ["No camera was found.", "Connect one, or choose an image file."],
  OverconstrainedError: ["That camera is gone.", "Choose another one."],
  NotReadableError: ["The camera does not start.", "Close other programs that use it, then try again."],
};
const INSECURE = [
  "Browsers give a camera to secure pages only.",
  "Open this page on the server's own machine (localhost), through a tunnel (ssh -L), or start the server with --tls-cert and --tls-key.",
];

export class CameraError extends Error {
  constructor([title, remedy]) {
    super(title);
    Object.assign(this, { title, remedy, detail: "", again: false });
  }
}

export class Camera {
  #video = document.createElement("video");
  #canvas = document.createElement("canvas");
  #stream = null;
  #times = [];
  #total = 0;
  #detected = 0;

  constructor() {
    this.#video.muted = true;
    this.#video.playsInline = true;
  }

  get running() {
    return this.#stream !== null;
  }

  /** The cameras there are, and which one runs: names are known only while one runs. */
  async devices() {
    const all = await navigator.mediaDevices.enumerateDevices();
    const current = this.#stream?.getVideoTracks()[0]?.getSettings().deviceId;
    return { current, devices: all.filter((one) => one.kind === "videoinput") };
  }

  /**
   * Starts. onFrame(canvas, blob, rate): waited for before the next frame is taken. onEnd: the camera was unplugged.
   * Throws CameraError.
   */
  async start({ device, onFrame, onEnd }) {
    if (!navigator.mediaDevices) throw new CameraError(INSECURE);
    const which = device ? { deviceId: { exact: device } } : { facingMode: "environment" };
    let stream;
    try {
      stream = await navigator.mediaDevices.getUserMedia({ audio: false, video: { width: { ideal: WIDTH }, ...which } });
    } catch (error) {
      throw new CameraError(MEANING[error.name] ?? ["The camera does not start.", String(error.message)]);
    }
    this.stop();
    this.#stream = stream;
    this.#video.srcObject = stream;
    this.#times = [];
    this.#total = this.#detected = 0;
    stream.getVideoTracks()[0].addEventListener("ended", () => {
      if (this.#stream !== stream) return;
      this.stop();
      onEnd(new CameraError(["The camera was disconnected.", "Connect it and start it again."]));
    });
    await this.#video.play();
    this.#run(stream, onFrame);
  }

  /** Stops; the light of the camera goes out. */
  stop() {
    this.#stream?.getTracks().forEach((track) => track.stop());
    this.#stream = null;
    this.#video.srcObject = null;
  }

  async #run(stream, onFrame) {
    while (this.#stream === stream) {
      await this.#frame();
      if (this.#stream !== stream) return;
      const { videoWidth: width, videoHeight: height } = this.#video;
      if (!width) continue;
      this.#canvas.width = width;
      this.#canvas.height = height;
      this.#canvas.getContext("2d").drawImage(this.#video, 0, 0, width, height);
      const blob = await new Promise((done) => this.#canvas.toBlob(done, "image/jpeg", QUALITY));
      if (this.#stream !== stream) return;
      await onFrame(this.#canvas, blob, this.#rate());
    }
  }

  /** Waits for a new frame. There are none while the page is in the background. */
  #frame() {
    return new Promise((done) => {
      if (!this.#video.requestVideoFrameCallback) {
        requestAnimationFrame(() => done());
        return;
      }
      this.#video.requestVideoFrameCallback((_, { presentedFrames }) => {
        this.#total = presentedFrames;
        done();
      });
    });
  }

  #rate() {
    const now = performance.now();
    this.#detected += 1;
    this.#times = [...this.#times, now].filter((time) => now - time <= SECONDS * 1e3);
    const span = (now - this.#times[0]) / 1e3;
    const skipped = this.#video.requestVideoFrameCallback ? Math.max(0, this.#total - this.#detected) : null;
    return { detected: span ? (this.#times.length - 1) / span : 0, skipped };
  }
}
